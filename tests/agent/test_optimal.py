"""The best trader: limits that are known by hand, and rivals that must not beat it."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from mambadream_lite.agent import Episode, Observation, OptimalRule, replay
from mambadream_lite.dream import Dream, foreseen
from mambadream_lite.market import Account, AccountConfig, Edge, bayes_filter
from mambadream_lite.market.account import AccountState
from mambadream_lite.model.recipes import PARAMS, heston_market

COSTS = AccountConfig()
FREE = AccountConfig(half_spread=0.0, fee=0.0)


@pytest.fixture(scope="module")
def path() -> Dream:
    market = heston_market(100, 1100, seed=51)
    known = bayes_filter(market, PARAMS)
    reward = known.return_mean + 0.5 * known.return_sd.square()
    return foreseen(market, reward[:, :-1], known.return_sd[:, :-1], warmup=100)


@pytest.fixture(scope="module")
def rule() -> OptimalRule:
    return OptimalRule.solve(PARAMS, COSTS)


@dataclass(frozen=True)
class Threshold:
    """Turn to the side of the imbalance once it is beyond ``enter``; never out of the market."""

    enter: float

    def act(self, observation: Observation, state: AccountState, generator) -> Tensor:
        imbalance = observation.features[:, 2].double()
        return torch.where(imbalance.abs() > self.enter, imbalance.sign(), state.leverage.round())


def growth(episode: Episode, path: Dream) -> Tensor:
    """Mean log growth a bar (N,) that the true forecast gives to the leverage held, after costs."""
    held = episode.leverage
    cost = COSTS.turnover_cost * held.diff(dim=1, prepend=torch.zeros(len(held), 1)).abs()
    return (held * path.reward - 0.5 * (held * path.risk).square() - cost).mean(1)


def test_without_costs_it_takes_the_side_of_the_imbalance_whatever_it_holds() -> None:
    free = OptimalRule.solve(PARAMS, FREE)
    usual = free.risk > 1e-3  # 14 % a year and more
    strong = free.imbalance.abs() > 0.5
    side = (1 + free.imbalance[strong].sign()).long()[:, None, None]
    assert (free.choice[strong][:, usual] == side).all()


def test_at_ruinous_costs_it_never_trades() -> None:
    dear = OptimalRule.solve(PARAMS, AccountConfig(half_spread=1000.0))
    assert (dear.choice == torch.arange(3)).all()


def test_without_an_edge_it_stays_out(rule: OptimalRule) -> None:
    blind = OptimalRule.solve(PARAMS, COSTS, edge=Edge(strength=0.0))
    usual = (blind.risk > 1e-3) & (blind.risk < 2e-3)
    assert (blind.choice[:, usual, 1] == 1).all()
    assert (rule.choice[:, usual, 1] != 1).any()


def test_costs_make_it_slow_to_turn(rule: OptimalRule) -> None:
    usual = (rule.risk - 1.4e-3).abs().argmin()
    weak = rule.imbalance.abs() < 0.3
    assert (rule.choice[weak][:, usual] == torch.arange(3)).all()  # not worth the cost: hold on
    # the higher the risk, the larger the edge, and the sooner it enters
    enters = (rule.choice[:, :, 1] == 2).double().mean(0)
    assert enters[usual] < enters[(rule.risk - 3e-3).abs().argmin()]


def test_it_is_the_same_for_longs_and_shorts(rule: OptimalRule) -> None:
    usual = (rule.risk > 1e-3) & (rule.risk < 2e-3)
    mirrored = 2 - rule.choice.flip(0).flip(2)
    same = (rule.choice == mirrored)[:, usual]
    assert same.double().mean() > 0.98  # but for the convexity that pays longs a little


@pytest.mark.parametrize("enter", [0.0, 0.4, 0.8, 1.2, 2.0])
def test_no_threshold_does_better(path: Dream, rule: OptimalRule, enter: float) -> None:
    lead = growth(replay(rule, path, Account(COSTS)), path)
    lead = lead - growth(replay(Threshold(enter), path, Account(COSTS)), path)
    assert lead.mean() > -2 * lead.std() / len(lead) ** 0.5
    if enter in (0.0, 2.0):  # turning at every whim, or hardly ever, is plainly worse
        assert lead.mean() > 3 * lead.std() / len(lead) ** 0.5


def test_it_acts_on_the_nearest_row_of_its_table(rule: OptimalRule) -> None:
    features = torch.zeros(3, 6)
    features[:, 2] = torch.tensor([-3.0, 0.0, 99.0])
    observation = Observation(features, torch.zeros(3), torch.full((3,), 1.4e-3), torch.zeros(3, 1))
    state = replace(Account(COSTS).open(3), leverage=torch.tensor([0.01, -0.98, 0.0]).double())
    assert rule.act(observation, state, None).tolist() == [-1.0, -1.0, 1.0]


@pytest.mark.parametrize("levels", [(1.0, -1.0), (0.0, 0.0), (-200.0, 0.0)])
def test_levels_that_cannot_be_held_are_refused(levels) -> None:
    with pytest.raises(ValueError, match="levels must ascend within"):
        OptimalRule.solve(PARAMS, COSTS, levels=levels)
