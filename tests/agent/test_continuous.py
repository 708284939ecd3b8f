"""A position that may be any number: Kelly's leverage is found, and what is held may drift."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import bernoulli, norm

from mambadream_lite.agent import PPO, PPOConfig
from mambadream_lite.agent.trading import observation_at
from mambadream_lite.dream import Dream, Quoted
from mambadream_lite.market import Account, AccountConfig
from mambadream_lite.model.recipes import CONTRACT

FREE = Account(AccountConfig(half_spread=0.0, fee=0.0))
BP = 1e-4


def agent(model, account: Account = FREE, seed: int = 0, **changes) -> PPO:
    return PPO(model, account, PPOConfig(continuous=True, **changes), seed=seed)


def flat(make_path, n: int, horizon: int, **terms) -> Dream:
    return make_path(torch.zeros(n, horizon + 1), **terms)


def test_the_leverage_that_grows_fastest_is_found(model, make_path) -> None:
    """Kelly (1956): mean over variance, here 20, between the levels 10 and 30."""
    mean, sd = 5 * BP, 50 * BP
    path = flat(make_path, 256, 8, reward=mean, risk=sd)
    trader = agent(model, drawdown_penalty=0.0, gamma=0.5)
    for _ in range(120):
        trader.learn(path)
    state = FREE.open(len(path), torch.linspace(-50, 50, len(path)).double())
    target = trader.act(observation_at(path, 0), state)
    growth = target * mean - 0.5 * (target * sd).square()
    best = 0.5 * mean**2 / sd**2
    assert growth.mean() > 0.9 * best
    levels = torch.tensor([3.0, 10.0, 30.0])
    assert growth.mean() > (levels * mean - 0.5 * (levels * sd).square()).max()


def test_probabilities_are_those_of_the_two_laws(model, make_path) -> None:
    network = agent(model).network
    g = torch.Generator().manual_seed(1)
    n_inputs = network.policy[0].in_features
    inputs, held = torch.randn(50, n_inputs, generator=g), torch.zeros(50).double()
    choice = network.choose(inputs, held, g)
    assert 0 < choice[:, 0].sum() < 50
    log_prob, entropy = (z.detach().numpy() for z in network.judge(inputs, held, choice))
    first = network.policy(inputs).detach().double().numpy()
    p = 1 / (1 + np.exp(network.inertia.item() - first[:, 0]))
    sd = np.exp(network.log_sd.item())
    trade, z = choice.double().numpy().T
    expected = bernoulli.logpmf(trade.astype(int), p) + trade * norm.logpdf(z, first[:, 1], sd)
    assert log_prob == pytest.approx(expected, abs=1e-4)
    assert entropy == pytest.approx(bernoulli.entropy(p) + p * norm.entropy(scale=sd), abs=1e-4)


def test_who_does_not_trade_lets_the_position_drift_and_pays_nothing(model, make_path) -> None:
    dear = Account(AccountConfig(half_spread=2.0, fee=1.0))
    price = torch.tensor([[1.0, 1.02, 1.01, 1.03]]).log().expand(200, -1)
    rollout = agent(model, dear, drawdown_penalty=0.0)._collect(make_path(price, risk=1e-9))
    stayed = (rollout.choice[..., 0] == 0) & ~rollout.ended
    assert stayed.sum() > 300
    alive = stayed & ~rollout.ruined & (rollout.held.abs() <= 100)  # beyond, it is brought back
    assert (rollout.reward[alive].abs() < 1e-9).all()  # no edge, no risk, no trade
    moved = rollout.held[:, 1] / rollout.held[:, 0]
    both = stayed[:, 0] & ~rollout.ruined[:, 0]
    lev = rollout.held[both, 0]
    assert torch.allclose(moved[both], 1.02 / (1 + 0.02 * lev), rtol=1e-4)


def test_no_position_goes_beyond_the_levels(model, make_path) -> None:
    trader = agent(model, levels=(-5.0, 2.0))
    start = trader.network.start(1000, torch.Generator().manual_seed(1))
    assert start.min() >= -5 and start.max() <= 2 and start.min() < -4 and start.max() > 1.5
    choice = torch.tensor([[1.0, 9.0], [1.0, -9.0], [0.0, 0.0]])
    target = trader.network.target(choice, torch.tensor([0.0, 0.0, 3.0]).double())
    assert target.tolist() == [2.0, -5.0, 2.0]
    with pytest.raises(ValueError, match=r"^levels .*101.* go beyond max_leverage 100"):
        agent(model, levels=(0.0, 101.0))


def test_it_trades_the_contract_beside_it_and_goes_on_after_a_save(
    model, make_path, tmp_path: Path
) -> None:
    path = flat(make_path, 16, 5, reward=BP)
    same = {f.name: getattr(path, f.name) for f in fields(Dream)}
    strike = torch.full_like(path.log_price, 0.04)
    quoted = Quoted(**same, strike=strike, payoff=torch.full_like(path.log_price[:, 1:], 3 * BP))
    config = PPOConfig(continuous=True, contract_levels=(-1.0, 0.0, 1.0))
    whole, half = (PPO(model, FREE, config, seed=0, contract=CONTRACT) for _ in range(2))
    expected = [whole.learn(quoted) for _ in range(4)]
    rewards = [half.learn(quoted) for _ in range(2)]
    back = PPO.load(half.save(tmp_path / "agent.safetensors"), model, FREE)
    assert rewards + [back.learn(quoted) for _ in range(2)] == expected
    target = back.act(observation_at(quoted, 0), FREE.open(16))
    assert target.shape == (16, 2) and set(target[:, 1].tolist()) <= {-1.0, 0.0, 1.0}
