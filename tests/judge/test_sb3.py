"""Dreams in the hands of stable-baselines3."""

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from mambadream_lite.dream import DreamVectorEnv, feature_halt
from mambadream_lite.judge.sb3 import DreamVecEnv
from mambadream_lite.market import HestonParams, Market, make_heston_market
from mambadream_lite.model import MambaWorldModel

LEVELS = (-3.0, 0.0, 3.0)


@pytest.fixture(scope="module")
def market() -> Market:
    return make_heston_market(HestonParams(), 3, 60, seed=1)


@pytest.fixture(scope="module")
def model(market: Market) -> MambaWorldModel:
    torch.manual_seed(0)
    model = MambaWorldModel(d_model=16, d_state=8, n_components=3)
    model.fit_scaler(market)
    return model.eval().requires_grad_(False)


def make(model, market, n: int = 6, **terms) -> DreamVecEnv:
    return DreamVecEnv(
        DreamVectorEnv(model, market, num_envs=n, horizon=8, levels=LEVELS, **terms), seed=3
    )


def test_it_hands_on_what_the_dreams_pay(model, market: Market) -> None:
    env, plain = make(model, market), make(model, market).env
    first, (again, _) = env.reset(), plain.reset(seed=3)
    np.testing.assert_array_equal(first, again)
    rng = np.random.default_rng(1)
    for tick in range(8):
        actions = rng.integers(3, size=6)
        env.step_async(actions)
        seen, reward, over, infos = env.step_wait()
        expected, paid, *_ = plain.step(actions)
        np.testing.assert_allclose(reward, paid, rtol=1e-6)
        if tick < 7:
            np.testing.assert_array_equal(seen, expected)
            assert not over.any() and infos == [{}] * 6
    # the horizon is no end: what was seen last is told, so that its value can be bootstrapped
    assert over.all() and all(info["TimeLimit.truncated"] for info in infos)
    np.testing.assert_array_equal(infos[2]["terminal_observation"], expected[2])
    assert (seen != expected).any()  # and new dreams have begun


def test_a_dream_that_is_over_waits_without_pay(model, market: Market) -> None:
    env = make(model, market, n=8, halt=feature_halt("volatility", high=-1.7))
    env.reset()
    waited = 0
    for _ in range(8):
        waiting = env.env.over.numpy().copy()
        env.step_async(np.full(8, 2))
        _, reward, over, _ = env.step_wait()
        if waiting.all():
            break
        assert (reward[waiting] == 0).all() and over[waiting].all()
        waited += waiting.sum()
    assert waited > 0


def test_their_ppo_learns_to_stay_out_of_a_game_that_only_costs(model, market: Market) -> None:
    """An untrained model expects nothing: every position is risk and cost."""
    env = make(model, market, n=32, expected_reward=True)
    agent = PPO(
        "MlpPolicy", env, n_steps=8, batch_size=64, learning_rate=3e-3, seed=1, device="cpu"
    )
    agent.learn(8 * 32 * 15)
    choice, _ = agent.predict(env.reset(), deterministic=True)
    assert (choice == 1).mean() > 0.9
