"""PPO: advantages by their definition, an obvious edge learned, and ruin that has no future."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from mambadream_lite.agent import PPO, PPOConfig, dream_and_train
from mambadream_lite.agent.policies import observation_at
from mambadream_lite.agent.ppo import Rollout
from mambadream_lite.dream import Dream
from mambadream_lite.market import Account, AccountConfig

FREE = Account(AccountConfig(half_spread=0.0, fee=0.0))
LEVELS = (-3.0, -1.0, 0.0, 1.0, 3.0)
BP = 1e-4


def agent(model, account: Account = FREE, seed: int = 0, **changes) -> PPO:
    return PPO(model, account, PPOConfig(**({"levels": LEVELS} | changes)), seed=seed)


def flat_prices(n: int, horizon: int) -> torch.Tensor:
    return torch.zeros(n, horizon + 1)


def held(model, path: Dream, level: float, **changes) -> Rollout:
    """What an agent that knows one level only meets on a path."""
    return agent(model, levels=(level,), drawdown_penalty=0.0, **changes)._collect(path)


# --- advantages ---------------------------------------------------------------------------------


def advantages_by_definition(rollout: Rollout, gamma: float, lam: float) -> torch.Tensor:
    """sum_l (gamma lam)^l delta_{t+l}, up to the horizon or to ruin; V is the first input."""
    n, horizon = rollout.reward.shape
    value, beyond = rollout.inputs[..., 0], rollout.last_inputs[:, 0]
    result = torch.zeros(n, horizon)
    for i in range(n):
        for t in range(horizon):
            for k in range(t, horizon):
                future = beyond[i] if k == horizon - 1 else value[i, k + 1]
                dead = bool(rollout.ruined[i, k])
                delta = rollout.reward[i, k] + (0 if dead else gamma * future) - value[i, k]
                result[i, t] += (gamma * lam) ** (k - t) * delta
                if dead:
                    break
    return result


def make_rollout(ruined_at: dict[int, int]) -> Rollout:
    g = torch.Generator().manual_seed(1)
    ruined = torch.zeros(4, 6, dtype=torch.bool)
    for episode, tick in ruined_at.items():
        ruined[episode, tick] = True
    return Rollout(
        inputs=torch.randn(4, 6, 3, generator=g),
        held=torch.zeros(4, 6, dtype=torch.long),
        choice=torch.zeros(4, 6, dtype=torch.long),
        log_prob=torch.zeros(4, 6),
        reward=torch.randn(4, 6, generator=g),
        ruined=ruined,
        ended=torch.zeros(4, 6, dtype=torch.bool),
        last_inputs=torch.randn(4, 3, generator=g),
    )


@pytest.mark.parametrize("ruined_at", [{}, {1: 2}, {0: 0, 2: 5}])
def test_advantages_bootstrap_at_the_horizon_and_not_at_ruin(model, ruined_at: dict) -> None:
    trader = agent(model, gamma=0.9, lam=0.7)
    trader.value = lambda inputs: inputs[..., :1]
    rollout = make_rollout(ruined_at)
    advantage, target = trader._advantages(rollout)
    expected = advantages_by_definition(rollout, 0.9, 0.7)
    assert torch.allclose(advantage, expected, atol=1e-5)
    assert torch.allclose(target, expected + rollout.inputs[..., 0], atol=1e-5)


def test_what_comes_after_ruin_is_worth_nothing(model) -> None:
    trader = agent(model)
    trader.value = lambda inputs: inputs[..., :1]
    rollout = make_rollout({1: 2})
    richer = replace(rollout, reward=rollout.reward.clone(), last_inputs=rollout.last_inputs + 9)
    richer.reward[1, 3:] += 100
    (before, _), (after, _) = trader._advantages(rollout), trader._advantages(richer)
    assert torch.equal(before[1, :3], after[1, :3])
    assert not torch.equal(before[0], after[0])


# --- rewards ------------------------------------------------------------------------------------


def test_the_reward_is_the_growth_that_the_model_expects(model, make_path) -> None:
    path = make_path(flat_prices(2, 5), reward=5 * BP, risk=20 * BP)
    growth = 3 * 5 * BP - 0.5 * (3 * 20 * BP) ** 2
    rollout = held(model, path, 3.0)
    assert torch.allclose(rollout.reward, torch.tensor(growth / BP).float())


def test_trading_costs_come_off_the_expected_growth(model, make_path) -> None:
    dear = Account(AccountConfig(half_spread=2.0, fee=1.0))
    trader = agent(model, dear, levels=(3.0, -3.0), inertia=0.0, drawdown_penalty=0.0)
    rollout = trader._collect(make_path(flat_prices(64, 4), risk=1e-9))
    turned = rollout.choice != rollout.held  # at a price that stands still, held is exact
    assert 0 < turned.sum() < turned.numel()
    assert torch.allclose(rollout.reward, torch.where(turned, -6 * 3.0, 0.0), atol=1e-4)


def test_the_reward_can_be_the_growth_as_it_came(model, make_path) -> None:
    path = make_path(torch.tensor([[1.0, 1.1, 1.045]]).log(), reward=5 * BP)
    rollout = held(model, path, 2.0, expected_reward=False)
    expected = torch.tensor([1.2, 0.9]).log() / BP
    assert torch.allclose(rollout.reward[0], expected, rtol=1e-5)


def test_losses_are_clipped_and_gains_never(model, make_path) -> None:
    path = make_path(torch.tensor([[1.0, 1.1], [1.0, 0.92]]).log())
    rollout = held(model, path, 10.0, expected_reward=False)
    assert rollout.reward[0].item() == pytest.approx(math.log(2) / BP, rel=1e-4)
    assert rollout.reward[1].item() == pytest.approx(-0.5 / BP, rel=1e-4)


def test_ruin_costs_the_worst_reward_once_and_ends_the_episode(model, make_path) -> None:
    path = make_path(torch.tensor([[1.0, 1.0, 0.8, 0.9, 1.0], [1.0] * 5]).log(), reward=5 * BP)
    rollout = held(model, path, 10.0)
    assert rollout.ruined[0].tolist() == [False, True, False, False]
    assert rollout.ended[0].tolist() == [False, False, True, True]
    assert rollout.reward[0, 1].item() == pytest.approx(-0.5 / BP)
    assert not rollout.ruined[1].any()
    assert not rollout.ended[1].any()


def test_a_halted_dream_is_not_learned_from(model, make_path) -> None:
    path = make_path(flat_prices(2, 5))
    path.alive[1, 3:] = False
    assert held(model, path, 1.0).ended.tolist() == [[False] * 5, [False] * 3 + [True] * 2]


def test_learn_reports_basis_points_a_tick(model, make_path) -> None:
    path = make_path(flat_prices(8, 5), reward=5 * BP, risk=20 * BP)
    trader = agent(model, levels=(1.0,))
    assert trader.learn(path) == pytest.approx(5 - 0.02, rel=1e-5)


# --- learning -----------------------------------------------------------------------------------


def act(trader: PPO, path: Dream, generator: torch.Generator | None = None) -> torch.Tensor:
    state = FREE.open(len(path))
    return trader.act(observation_at(path, 0), state, generator)


@pytest.mark.parametrize(("reward", "best"), [(5 * BP, 3.0), (-5 * BP, -3.0)])
def test_an_obvious_edge_is_learned(model, make_path, reward: float, best: float) -> None:
    path = make_path(flat_prices(64, 10), reward=reward, risk=10 * BP)
    trader = agent(model)
    rewards = [trader.learn(path) for _ in range(20)]
    assert (act(trader, path) == best).all()
    assert rewards[-1] > rewards[0] + 5


def test_a_risk_that_is_not_paid_for_is_avoided(model, make_path) -> None:
    path = make_path(flat_prices(64, 10), reward=0.0, risk=300 * BP)
    trader = agent(model)
    for _ in range(20):
        trader.learn(path)
    assert (act(trader, path) == 0).all()


def test_a_seed_fixes_the_agent(model, make_path) -> None:
    path = make_path(flat_prices(16, 5), reward=BP)
    first, again, other = (agent(model, seed=s) for s in (1, 1, 2))
    rewards = [[trader.learn(path) for _ in range(3)] for trader in (first, again, other)]
    assert rewards[0] == rewards[1] != rewards[2]
    for a, b in zip(first.parameters, again.parameters, strict=True):
        assert torch.equal(a, b)


def test_making_an_agent_leaves_the_global_generator_alone(model) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    agent(model)
    assert torch.equal(torch.rand(1), expected)


def test_with_a_generator_actions_are_drawn(model, make_path) -> None:
    path = make_path(flat_prices(500, 1))
    trader = agent(model, inertia=0.0)  # a new policy is near uniform
    drawn = act(trader, path, torch.Generator().manual_seed(1))
    assert set(drawn.tolist()) == set(LEVELS)
    assert torch.equal(drawn, act(trader, path, torch.Generator().manual_seed(1)))
    assert len(act(trader, path).unique()) == 1


def test_a_new_agent_keeps_what_it_holds(model, make_path) -> None:
    state = FREE.open(5, torch.tensor(LEVELS, dtype=torch.float64))
    path = make_path(flat_prices(5, 1))
    assert agent(model).act(observation_at(path, 0), state).tolist() == list(LEVELS)


@pytest.mark.parametrize("level", [101.0, -101.0])
def test_a_level_beyond_the_accounts_limit_is_refused(model, level: float) -> None:
    with pytest.raises(ValueError, match=f"^levels .*{level}.* go beyond max_leverage 100"):
        agent(model, levels=(0.0, level))


# --- in dreams ----------------------------------------------------------------------------------


def train_in_dreams(model, market, seed: int = 5) -> tuple[PPO, list[float]]:
    trader = agent(model)
    curve = dream_and_train(
        model,
        trader,
        market,
        horizon=4,
        n_dreams=2,
        n_rounds=3,
        n_starts=8,
        n_passes=2,
        generator=torch.Generator().manual_seed(seed),
    )
    return trader, curve


def test_training_in_dreams_changes_the_agent_and_not_the_model(model, market) -> None:
    before, fresh = copy.deepcopy(model.state_dict()), agent(model)
    trader, curve = train_in_dreams(model, market)
    assert len(curve) == 3
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    pairs = zip(trader.parameters, fresh.parameters, strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_training_in_dreams_repeats_itself(model, market) -> None:
    assert train_in_dreams(model, market)[1] == train_in_dreams(model, market)[1]
    assert train_in_dreams(model, market)[1] != train_in_dreams(model, market, seed=6)[1]


def test_a_horizon_of_zero_is_named(model, market) -> None:
    generator = torch.Generator().manual_seed(1)
    with pytest.raises(ValueError, match="^horizon must be at least 1, got 0"):
        dream_and_train(model, agent(model), market, horizon=0, generator=generator)
