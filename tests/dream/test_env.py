"""The environments: what gymnasium and stable-baselines3 ask for, and the account to the digit."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3
from stable_baselines3.common.env_util import make_vec_env

from mambadream_lite.dream import DreamEnv, DreamVectorEnv, MarketEnv, feature_halt, range_halt
from mambadream_lite.market import AccountConfig, HestonParams, Market, make_heston_market
from mambadream_lite.model import MambaWorldModel

TERMS = {"horizon": 12}
LONG, FLAT, SHORT = 3, 2, 1  # of the default levels -3, -1, 0, 1, 3


@pytest.fixture(scope="module")
def long_market() -> Market:
    return make_heston_market(HestonParams(), 3, 300, seed=4)


def make(kind: str, model: MambaWorldModel, market: Market, **terms):
    if kind == "dream":
        return DreamEnv(model, market.window(0, 60), **(TERMS | terms))
    return MarketEnv(model, market, warmup=50, **(TERMS | terms))


@pytest.mark.parametrize("kind", ["dream", "market"])
@pytest.mark.parametrize("levels", [(-3.0, 0.0, 3.0), None], ids=["levels", "any leverage"])
def test_gymnasium_and_stable_baselines_accept_them(kind, levels, model, long_market) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make(kind, model, long_market, levels=levels)
        check_env(env, skip_render_check=True)
        check_env_of_sb3(env)


def test_both_have_the_same_spaces(model, long_market: Market) -> None:
    dreamt, real = (make(kind, model, long_market) for kind in ("dream", "market"))
    assert dreamt.observation_space == real.observation_space
    assert dreamt.action_space == real.action_space
    assert dreamt.observation_space.shape == (10,)


def test_they_can_be_made_by_name(model, long_market: Market) -> None:
    env = gym.make("mambadream/Market-v0", model=model, market=long_market, **TERMS)
    assert isinstance(env.unwrapped, MarketEnv)
    env = gym.make("mambadream/Dream-v0", model=model, context=long_market, **TERMS)
    assert isinstance(env.unwrapped, DreamEnv)
    many = gym.make_vec(
        "mambadream/Dream-v0", num_envs=5, model=model, context=long_market, **TERMS,
        vectorization_mode="vector_entry_point",
    )  # fmt: skip
    assert isinstance(many, DreamVectorEnv) and many.reset(seed=1)[0].shape == (5, 10)


def test_a_constant_position_is_the_accounts_arithmetic(model, long_market: Market) -> None:
    """By hand, from the market's own prices: log growth in basis points, less new drawdown."""
    terms = AccountConfig(half_spread=1.0, fee=0.5, maintenance=0.0)
    env = make("market", model, long_market, account=terms, drawdown_penalty=0.3)
    env.reset(seed=0, options={"path": 1, "tick": 7})
    first = 50 + 7  # the first bar after the warm-up and the seven ticks that were skipped
    before = equity = peak = 1.0
    leverage = drawdown = 0.0
    for h in range(TERMS["horizon"]):
        price = long_market.price[1, first + h : first + h + 2]
        gain = (price[1] / price[0]).item() - 1
        equity *= (1 - 1.5e-4 * abs(3.0 - leverage)) * (1 + 3.0 * gain)
        leverage = 3.0 * (1 + gain) / (1 + 3.0 * gain)
        peak = max(peak, equity)
        fall = max(1 - equity / peak - drawdown, 0.0)
        drawdown = 1 - equity / peak
        _, reward, terminated, truncated, info = env.step(4)
        assert info["equity"] == pytest.approx(equity, rel=1e-12)
        assert info["leverage"] == pytest.approx(leverage, rel=1e-12)
        assert reward * 1e-4 == pytest.approx(np.log(equity / before) - 0.3 * fall, abs=1e-12)
        assert (terminated, truncated) == (False, h == TERMS["horizon"] - 1)
        before = info["equity"]


def test_what_is_seen_was_known_before_the_tick(model, long_market: Market) -> None:
    env = make("market", model, long_market)
    seen, _ = env.reset(seed=0, options={"path": 2, "tick": 20})
    last_known = long_market.features[2, 50 + 20 - 1]
    scaled = (last_known - model.feature_mean) / model.feature_std
    np.testing.assert_allclose(seen[:6], scaled.numpy(), rtol=1e-6)
    with torch.no_grad():
        law, reward, _ = model(long_market.features[2:3, : 50 + 20])
    risk = law.stddev[0, -1, 0] * model.velocity_unit
    assert seen[6] == pytest.approx((20 * reward[0, -1] / risk).item(), rel=1e-3)
    assert seen[7] == pytest.approx((risk / model.velocity_unit).log().item(), abs=1e-4)
    assert seen[8] == 0 and seen[9] == 0
    after, *_ = env.step(LONG)
    assert after[8] > 0
    np.testing.assert_allclose(
        after[:6],
        ((long_market.features[2, 70] - model.feature_mean) / model.feature_std).numpy(),
        rtol=1e-6,
    )


def test_ruin_terminates_and_the_horizon_truncates(model, long_market: Market) -> None:
    doomed = AccountConfig(max_leverage=1000.0, maintenance=0.5)
    env = make("market", model, long_market, account=doomed, levels=(0.0, 900.0))
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(1)
    assert terminated and not truncated and info["equity"] == 0
    assert reward == pytest.approx(-5000)  # the worst reward, -0.5, in basis points
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(TERMS["horizon"])]
    assert ends == [(False, False)] * (TERMS["horizon"] - 1) + [(False, True)]


def test_a_dream_that_is_not_believed_is_truncated(model, long_market: Market) -> None:
    halt = feature_halt("volatility", high=-1.5)
    env = make("dream", model, long_market, halt=halt, horizon=40)
    early = 0
    for seed in range(20):
        env.reset(seed=seed)
        row = int(env.trading.desk.row)
        alive = int(env.trading.desk.paths.alive[row].sum())
        for h in range(40):
            _, _, terminated, truncated, _ = env.step(FLAT)
            assert not terminated and truncated == (h + 1 == alive or h == 39)
            if truncated:
                early += h < 39
                break
    assert early > 5
    with pytest.raises(ValueError, match="ends 256 of 256 dreams before their first tick"):
        with pytest.warns(UserWarning, match="before their first tick"):
            make("dream", model, long_market, halt=range_halt(model, 1e-9)).reset(seed=0)


def test_expected_reward_is_the_models_own(model, long_market: Market) -> None:
    free = AccountConfig(half_spread=0.0, fee=0.0, maintenance=0.0)
    terms = {"account": free, "expected_reward": True, "drawdown_penalty": 0.0}
    env = make("market", model, long_market, **terms)
    seen, _ = env.reset(seed=3)
    _, reward, *_ = env.step(LONG)
    risk = np.exp(seen[7]) * model.velocity_unit
    mean = seen[6] / 20 * risk
    assert reward * 1e-4 == pytest.approx(mean - 0.5 * risk**2, rel=1e-3)


def test_a_seed_fixes_all_episodes_that_follow(model, long_market: Market) -> None:
    def run(env) -> list:
        out = []
        for seed in (5, None, None):
            seen, _ = env.reset(seed=seed)
            out.append(seen)
            out += [env.step(LONG)[0] for _ in range(3)]
        return out

    for kind in ("dream", "market"):
        env = make(kind, model, long_market)
        first, again = run(env), run(env)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True)), kind
        assert not np.array_equal(first[2], first[6])


def test_many_at_once_earn_what_one_at_a_time_does(model, long_market: Market) -> None:
    context = long_market.window(0, 60)
    one, many = (
        DreamEnv(model, context, **TERMS),
        DreamVectorEnv(model, context, num_envs=6, **TERMS),
    )
    seen, _ = many.reset(seed=1)
    actions = np.random.default_rng(0).integers(5, size=(12, 6))
    steps = [many.step(a) for a in actions]
    assert steps[-1][3].all() and not steps[0][3].any()
    with pytest.raises(RuntimeError, match="call reset"):
        many.step(actions[0])
    for i in range(6):
        alone, _ = one.reset(seed=1) if i == 0 else one.reset()
        np.testing.assert_allclose(alone, seen[i], rtol=1e-6)
        for h, (told, reward, *_) in enumerate(steps):
            its, its_reward, *_ = one.step(actions[h, i])
            np.testing.assert_allclose(its, told[i], rtol=1e-6)
            assert its_reward == pytest.approx(reward[i], rel=1e-9)


def test_who_is_over_waits_for_the_others(model, long_market: Market) -> None:
    halt = feature_halt("volatility", high=-1.5)
    many = DreamVectorEnv(model, long_market.window(0, 60), num_envs=30, halt=halt, horizon=20)
    many.reset(seed=2)
    over = np.zeros(30, dtype=bool)
    while not over.all():
        _, reward, terminated, truncated, info = many.step(np.full(30, LONG))
        assert np.array_equal(info["waiting"], over)
        assert (reward[over] == 0).all() and not (terminated | truncated)[over].any()
        over |= terminated | truncated


def test_stable_baselines_trains_in_dreams_and_learns_to_hold(model, long_market: Market) -> None:
    """Where the model promises 2 bp a tick and trading is free, the long side must be taken."""
    torch.manual_seed(0)
    sure = MambaWorldModel(d_model=16, d_state=8, n_components=3)
    sure.fit_scaler(long_market)
    sure.reward_head.bias.data.fill_(0.2)  # a fifth of an sd: some 2 bp
    sure.eval().requires_grad_(False)
    terms = {"account": AccountConfig(half_spread=0.0, fee=0.0), "expected_reward": True}
    settings = TERMS | terms | {"levels": (-1.0, 0.0, 1.0), "drawdown_penalty": 0.0}
    envs = make_vec_env(lambda: DreamEnv(sure, long_market.window(0, 60), **settings), 4, seed=1)
    agent = PPO("MlpPolicy", envs, n_steps=48, batch_size=48, gamma=0.5, seed=1, device="cpu")
    agent.learn(3000)
    test = MarketEnv(sure, long_market, warmup=50, **settings)
    seen, _ = test.reset(seed=9)
    taken = []
    for _ in range(12):
        action, _ = agent.predict(seen, deterministic=True)
        taken.append(int(action))
        seen, *_ = test.step(action)
    assert taken.count(2) >= 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": (0.0, 200.0)}, "levels must lie within"),
        ({"levels": ()}, "levels must lie within"),
        ({"horizon": 0}, "horizon must be at least 1"),
        ({"drawdown_penalty": -1.0}, "drawdown_penalty must not be negative"),
        ({"horizon": 260}, "an episode needs 50"),
    ],
)
def test_impossible_terms_are_named(model, long_market: Market, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make("market", model, long_market, **change)


def test_a_start_outside_the_market_is_refused(model, long_market: Market) -> None:
    env = make("market", model, long_market)
    with pytest.raises(ValueError, match="path must lie below 3 and tick below 239, got 0 and 239"):
        env.reset(options={"path": 0, "tick": 239})
