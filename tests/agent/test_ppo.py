"""PPO: advantages by their definition, an obvious edge learned, and ruin that has no future."""

import copy
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from mambadream_lite.agent import PPO, PPOConfig, dream_and_train
from mambadream_lite.agent.ppo import Rollout
from mambadream_lite.agent.trading import observation_at
from mambadream_lite.dream import Dream, Quoted
from mambadream_lite.market import Account, AccountConfig
from mambadream_lite.model import save_world_model
from mambadream_lite.model.recipes import CONTRACT

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


class FirstInput(torch.nn.Module):
    """A value network that returns the first input."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs[..., :1]


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
        choice=torch.zeros(4, 6, 1, dtype=torch.long),
        log_prob=torch.zeros(4, 6),
        reward=torch.randn(4, 6, generator=g),
        ruined=ruined,
        halted=torch.zeros(4, 6, dtype=torch.bool),
        ended=torch.zeros(4, 6, dtype=torch.bool),
        last_inputs=torch.randn(4, 3, generator=g),
    )


@pytest.mark.parametrize("ruined_at", [{}, {1: 2}, {0: 0, 2: 5}])
def test_advantages_bootstrap_at_the_horizon_and_not_at_ruin(model, ruined_at: dict) -> None:
    trader = agent(model, gamma=0.9, lam=0.7)
    trader.network.value = FirstInput()
    rollout = make_rollout(ruined_at)
    advantage, target = trader._advantages(rollout)
    expected = advantages_by_definition(rollout, 0.9, 0.7)
    assert torch.allclose(advantage, expected, atol=1e-5)
    assert torch.allclose(target, expected + rollout.inputs[..., 0], atol=1e-5)


def test_what_comes_after_ruin_is_worth_nothing(model) -> None:
    trader = agent(model)
    trader.network.value = FirstInput()
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
    turned = rollout.choice[..., 0] != rollout.held  # at a price that stands still, held is exact
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


def test_where_every_dream_was_halted_at_once_nothing_is_learned(model, make_path) -> None:
    path = make_path(flat_prices(4, 3), reward=5 * BP)
    path.alive[:] = False
    trader = agent(model)
    before = copy.deepcopy(trader.network.state_dict())
    assert trader.learn(path) == 0
    assert all(torch.equal(v, before[k]) for k, v in trader.network.state_dict().items())


def test_learn_reports_basis_points_a_tick(model, make_path) -> None:
    path = make_path(flat_prices(8, 5), reward=5 * BP, risk=20 * BP)
    trader = agent(model, levels=(1.0,))
    assert trader.learn(path) == pytest.approx(5 - 0.02, rel=1e-5)


def test_a_halt_closes_the_position_at_its_cost_and_then_pays_nothing(model, make_path) -> None:
    dear = Account(AccountConfig(half_spread=2.0, fee=1.0))
    path = make_path(flat_prices(64, 5), reward=5 * BP, risk=1e-9)
    path.alive[:, 3:] = False
    trader = agent(model, dear, levels=(3.0, 1.0), inertia=0.0, drawdown_penalty=0.0)
    rollout = trader._collect(path)
    leverage = torch.tensor([3.0, 1.0])[rollout.choice[:, 2, 0]]  # of the last tick alive
    assert torch.allclose(rollout.reward[:, 3], -3.0 * leverage, rtol=1e-4)  # 3 bp a unit
    assert (rollout.reward[:, 4] == 0).all()


def test_the_worth_of_a_halted_future_is_minus_what_closing_costs(model) -> None:
    trader = agent(model, gamma=0.9, lam=0.7)
    trader.network.value = FirstInput()
    rollout = make_rollout({})
    rollout.halted[1, 4:] = True
    rollout.reward[1, 4], rollout.reward[1, 5] = -7.0, 0.0
    advantage, _ = trader._advantages(rollout)
    value = rollout.inputs[1, :, 0]
    assert advantage[1, 3].item() == pytest.approx(
        (rollout.reward[1, 3] + 0.9 * -7.0 - value[3]).item(), abs=1e-5
    )
    # whatever the agent sees, or would have earned, after the halt
    rollout.inputs[1, 4:] += 100
    again, _ = trader._advantages(rollout)
    assert torch.equal(again[1, :4], advantage[1, :4])
    assert torch.equal(again[0], advantage[0])


# --- the volatility contract --------------------------------------------------------------------


def quoted(path: Dream, payoff: float, strike: float = 0.04) -> Quoted:
    same = {f.name: getattr(path, f.name) for f in fields(Dream)}
    strikes = torch.full_like(path.log_price, strike)
    return Quoted(**same, strike=strikes, payoff=torch.full_like(path.log_price[:, 1:], payoff))


def vol_trader(model, **changes) -> PPO:
    config = PPOConfig(**({"levels": LEVELS, "contract_levels": LEVELS} | changes))
    return PPO(model, FREE, config, seed=0, contract=CONTRACT)


@pytest.mark.parametrize(("payoff", "best"), [(-50 * BP, -3.0), (50 * BP, 3.0)])
def test_an_obvious_payoff_is_traded_in_the_contract_alone(
    model, make_path, payoff: float, best: float
) -> None:
    path = quoted(make_path(flat_prices(64, 10), risk=200 * BP), payoff)
    trader = vol_trader(model)
    for _ in range(20):
        trader.learn(path)
    target = trader.act(observation_at(path, 0), FREE.open(len(path)))
    assert (target == torch.tensor([0.0, best])).all()


@pytest.mark.parametrize("expected_reward", [True, False])
def test_the_contract_pays_what_it_settles_at(model, make_path, expected_reward: bool) -> None:
    path = quoted(make_path(flat_prices(32, 4), risk=1e-9), 100 * BP)
    trader = vol_trader(model, levels=(0.0,), expected_reward=expected_reward,
                        drawdown_penalty=0.0)  # fmt: skip
    trader.account = Account(AccountConfig(contract_fee=5.0))
    rollout = trader._collect(path)
    contracts = torch.tensor(LEVELS).double()[rollout.choice[..., 1]]
    growth = (1 + contracts * 0.01).log() + (1 - contracts.abs() * 5 * BP).log()
    assert torch.allclose(rollout.reward, (growth / BP).float(), rtol=2e-3, atol=0.05)


def test_the_strike_is_seen_against_the_variance_that_the_model_expects(model, make_path) -> None:
    path = quoted(make_path(flat_prices(2, 1), risk=10 * BP), 0.0, strike=0.09)
    with_beliefs = vol_trader(model)._collect(path).inputs[0, 0]
    assert with_beliefs[8].item() == pytest.approx(
        math.log((10 * BP) ** 2 / float(model.bar) / 0.09), abs=1e-5
    )


def test_a_trader_of_contracts_and_its_paths_belong_together(model, make_path) -> None:
    path = make_path(flat_prices(2, 3))
    with pytest.raises(ValueError, match="^path must be quoted if and only if"):
        vol_trader(model).learn(path)
    with pytest.raises(ValueError, match="^path must be quoted if and only if"):
        agent(model).learn(quoted(path, 0.0))
    with pytest.raises(ValueError, match=r"^observation has no strike"):
        vol_trader(model).act(observation_at(path, 0), FREE.open(2))
    with pytest.raises(ValueError, match="^contract and config.contract_levels must be given"):
        PPO(model, FREE, PPOConfig(contract_levels=LEVELS), seed=0)
    with pytest.raises(ValueError, match=r"^contract_levels .*101.* go beyond max_leverage 100"):
        vol_trader(model, contract_levels=(0.0, 101.0))


def test_without_beliefs_the_models_forecast_is_not_seen(model, make_path) -> None:
    few, many = (make_path(flat_prices(4, 3), reward=x * BP, risk=x * BP) for x in (1, 9))
    blind = agent(model, beliefs=False)._collect(few).inputs
    assert blind.shape[-1] == 8
    again = agent(model, beliefs=False)._collect(many).inputs
    assert torch.equal(blind[:, 0], again[:, 0])
    assert not torch.equal(agent(model)._collect(few).inputs, agent(model)._collect(many).inputs)


# --- keeping an agent ---------------------------------------------------------------------------


def test_an_agent_that_was_kept_goes_on_as_if_it_had_never_stopped(
    model, make_path, tmp_path: Path
) -> None:
    path = quoted(make_path(flat_prices(16, 5), reward=BP), 3 * BP)
    whole, half = vol_trader(model), vol_trader(model)
    expected = [whole.learn(path) for _ in range(4)]
    rewards = [half.learn(path) for _ in range(2)]
    back = PPO.load(half.save(tmp_path / "agent.safetensors"), model, FREE)
    assert back.config == half.config and back.contract == CONTRACT
    assert rewards + [back.learn(path) for _ in range(2)] == expected
    for a, b in zip(whole.network.parameters(), back.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_is_no_agent_is_refused(model, tmp_path: Path) -> None:
    file = agent(model).save(tmp_path / "agent.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match="truncated"):
        PPO.load(cut, model, FREE)
    with pytest.raises(ValueError, match="is not a mambadream-ppo-1 file"):
        PPO.load(save_world_model(model, tmp_path / "model.safetensors"), model, FREE)


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
    for a, b in zip(first.network.parameters(), again.network.parameters(), strict=True):
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
    pairs = zip(trader.network.parameters(), fresh.network.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_training_in_dreams_repeats_itself(model, market) -> None:
    assert train_in_dreams(model, market)[1] == train_in_dreams(model, market)[1]
    assert train_in_dreams(model, market)[1] != train_in_dreams(model, market, seed=6)[1]


def test_a_horizon_of_zero_is_named(model, market) -> None:
    generator = torch.Generator().manual_seed(1)
    with pytest.raises(ValueError, match="^horizon must be at least 1, got 0"):
        dream_and_train(model, agent(model), market, horizon=0, generator=generator)
