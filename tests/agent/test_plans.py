"""Plans scored on futures: against the account, against sums by hand, against brute force."""

import itertools
import math
from dataclasses import fields

import pytest
import torch

from mambadream_lite.agent import MPC, replay
from mambadream_lite.agent.plans import (
    constant,
    cross_entropy,
    expected_growth,
    followed,
    held_to_horizon,
)
from mambadream_lite.dream import Dream, Quoted
from mambadream_lite.market import Account, AccountConfig

FREE = Account(AccountConfig(half_spread=0.0, fee=0.0))
DEAR = Account(AccountConfig(half_spread=20.0, fee=10.0))  # 30 basis points of what is traded
COST = 30e-4


def quoted(path: Dream, payoff) -> Quoted:
    same = {f.name: getattr(path, f.name) for f in fields(Dream)}
    payoff = torch.as_tensor(payoff, dtype=torch.float64)
    return Quoted(**same, strike=torch.full(path.log_price.shape, 0.04), payoff=payoff)


def walk(make_path, n: int, horizon: int, *, mean=2e-4, sd=2e-3, seed=1) -> Dream:
    """Futures whose simple return has a known mean and whose log return a known sd."""
    noise = torch.randn(n, horizon, generator=torch.Generator().manual_seed(seed)).double()
    step = math.log1p(mean) - sd**2 / 2 + sd * noise
    path = torch.cat([torch.zeros(n, 1), step.cumsum(1)], dim=1)
    return make_path(path, reward=mean, risk=sd)


class Fixed:
    """Always the same pair."""

    def __init__(self, asset: float, contracts: float = 0.0) -> None:
        self.pair = torch.tensor([asset, contracts], dtype=torch.float64)

    def act(self, observation, state, generator):
        return self.pair.expand(len(state.equity), 2)


def test_a_plan_followed_is_what_the_account_makes_of_it(make_path) -> None:
    """The same futures, traded by ``replay``, which another test holds against closed forms."""
    path = quoted(walk(make_path, 50, 6), 0.01 * torch.randn(50, 6))
    account = Account()
    for pair in ((3.0, 0.0), (-10.0, 4.0), (0.0, -20.0)):
        plans = constant(torch.tensor([pair]), 6)
        equity = replay(Fixed(*pair), path, account, leverage=2.0).equity[:, -1]
        torch.testing.assert_close(followed(path, plans, 2.0, account)[0], equity)


def test_a_plan_that_changes_is_followed_tick_by_tick(make_path) -> None:
    path = make_path(torch.tensor([[1.0, 1.1, 0.99, 1.2]]).log())
    plan = torch.tensor([[[2.0, 0], [-1.0, 0], [0.0, 0]]])
    by_hand = (1 + 2 * 0.1) * (1 - (0.99 / 1.1 - 1))
    assert followed(path, plan, 0.0, FREE).item() == pytest.approx(by_hand, rel=1e-6)


def test_bought_and_kept_is_worth_what_the_units_are_worth(make_path) -> None:
    path = walk(make_path, 30, 5)
    wealth = held_to_horizon(path, torch.tensor([3.0]).double(), 1.0, DEAR)
    end = path.log_price[:, -1].exp()
    torch.testing.assert_close(wealth[0], (1 - COST * 2) * (1 + 3 * (end - 1)))


@pytest.mark.parametrize("leverage", [1.0, -5.0, 20.0])
def test_expected_growth_is_the_mean_of_drawn_growth_with_less_noise(make_path, leverage) -> None:
    path = walk(make_path, 20_000, 8)
    plans = constant(torch.tensor([leverage]), 8)
    expected = expected_growth(path, plans, 0.0, DEAR)[0]
    drawn = followed(path, plans, 0.0, FREE)[0].log()
    paid = math.log(1 - COST * abs(leverage))
    gap = expected.mean() - paid - drawn.mean()
    assert abs(gap) < 4 * drawn.std() / len(path) ** 0.5
    assert expected.std() < 1e-9  # the beliefs are the same in every future here
    by_hand = 8 * (leverage * 2e-4 - 0.5 * leverage**2 * 2e-3**2) + paid
    assert expected[0].item() == pytest.approx(by_hand, rel=1e-5)


def test_turning_over_inside_a_plan_costs(make_path) -> None:
    path = make_path(torch.zeros(3, 5), risk=0.0)
    plan = torch.tensor([[[1.0, 0], [1.0, 0], [-2.0, 0], [0.0, 0]]])
    turned = abs(1 - 0.5) + 3 + 2
    growth = expected_growth(path, plan, 0.5, DEAR)
    assert growth.tolist()[0] == pytest.approx([math.log(1 - COST * turned)] * 3)


def test_contracts_are_worth_the_same_to_both_scorers(make_path) -> None:
    """Their payoffs stay drawn, so with no asset held the two are the same sum."""
    path = quoted(walk(make_path, 40, 6), 0.005 * torch.randn(40, 6).clamp(-1, 3))
    plans = constant(torch.tensor([[0.0, 5.0], [0.0, -30.0]]), 6)
    account = Account()
    exact = followed(path, plans, 0.0, account).log()
    torch.testing.assert_close(expected_growth(path, plans, 0.0, account), exact)


def test_a_plan_that_is_liquidated_in_a_future_counts_minus_infinity(make_path) -> None:
    path = make_path(torch.tensor([[1.0, 0.96, 1.5], [1.0, 1.01, 1.02]]).log(), reward=0.2)
    growth = expected_growth(path, constant(torch.tensor([30.0, 10.0]), 2), 0.0, FREE)
    assert growth[0, 0] == -torch.inf and growth[0, 1].isfinite()
    assert growth[1].isfinite().all()  # 10x is liquidated below 0.9036
    swap = quoted(path, [[0.03, 0.0], [0.001, 0.001]])
    sold = expected_growth(swap, constant(torch.tensor([[0.0, -40.0]]), 2), 0.0, FREE)
    assert sold[0, 0] == -torch.inf and sold[0, 1].isfinite()


def halved(make_path, *, up: bool) -> Dream:
    """Two ticks believed, two not; the price doubles or halves in the second."""
    end = 1.2 if up else 0.8
    path = make_path(torch.tensor([[1.0, 1.0, end, 5.0, 5.0]]).log(), reward=0.0, risk=0.0)
    path.alive[:, 2:] = False
    path.reward[:, 1] = end - 1
    return path


def test_a_halted_future_can_lose_but_not_win(make_path) -> None:
    one = torch.tensor([1.0]).double()
    closed = (1 - COST) * (1 - COST)
    for up in (True, False):
        path = halved(make_path, up=up)
        wealth = min(1.0, 1.2 * closed) if up else 0.8 * closed
        held = held_to_horizon(path, one, 0.0, DEAR).item()
        assert held == pytest.approx(wealth)
        exact = followed(path, constant(one, 4), 0.0, DEAR).item()
        assert exact == pytest.approx(1.0 if up else wealth, rel=1e-3)
    # by expectation 0.2 is earned, and not counted; -0.2 is, with both trades
    assert expected_growth(halved(make_path, up=True), constant(one, 4), 0.0, DEAR).item() == 0
    lost = expected_growth(halved(make_path, up=False), constant(one, 4), 0.0, DEAR).item()
    assert lost == pytest.approx(-0.2 + math.log(1 - 2 * COST))


def test_where_the_first_tick_is_halted_all_plans_are_to_get_out(make_path) -> None:
    path = walk(make_path, 4, 3)
    path.alive[:] = False
    options, position = torch.tensor([-1.0, 0.0, 2.0]).double(), 1.5
    out = 1 - COST * position
    plans = constant(options, 3)
    for wealth in (
        held_to_horizon(path, options, position, DEAR),
        followed(path, plans, position, DEAR),
        expected_growth(path, plans, position, DEAR).exp(),
    ):
        torch.testing.assert_close(wealth, torch.full((3, 4), out, dtype=torch.float64))


def test_a_broken_future_is_not_a_number_unless_one_stays_out(make_path) -> None:
    path = walk(make_path, 3, 4)
    path.reward[1, 2] = torch.nan
    growth = expected_growth(path, constant(torch.tensor([0.0, 1.0]), 4), 0.0, FREE)
    assert (growth[0] == 0).all()
    assert growth[1].isnan().tolist() == [False, True, False]


def test_the_cross_entropy_search_finds_what_brute_force_finds(make_path) -> None:
    """An edge that turns: within 5 % of the best of all 13^4 sequences of whole leverages."""
    path = make_path(torch.zeros(1, 9), risk=2e-3)
    path.reward[:] = torch.tensor([3, 3, 2, 2, -1, -1, -3, -3]) * 1e-5
    account = Account(AccountConfig(half_spread=0.2, fee=0.0))

    def score(plans):
        return expected_growth(path, plans, 0.0, account)[:, 0]

    grid = torch.tensor(list(itertools.product(range(-6, 7), repeat=4))).double()
    pieces = grid.repeat_interleave(2, dim=1)
    rows = torch.stack([pieces, 0 * pieces], dim=2).split(4000)
    brute = torch.cat([score(part) for part in rows])
    start = constant(torch.tensor([1.0]).double(), 8)[0]
    generator = torch.Generator().manual_seed(1)
    found = cross_entropy(score, start, 10.0, generator=generator, n_rounds=12)
    assert (found[:, 1] == 0).all()
    assert brute.max() > 1e-4 > 0 > score(start[None])[0]
    assert score(found[None])[0] > 0.95 * brute.max()


def test_a_search_never_returns_less_than_it_was_given() -> None:
    start = torch.zeros(4, 2).double()
    terms = {"generator": torch.Generator().manual_seed(1), "n_plans": 8, "n_elite": 2}
    found = cross_entropy(lambda plans: -plans.abs().sum((1, 2)), start, 5.0, **terms)
    assert torch.equal(found, start)


def test_an_elite_of_all_is_refused() -> None:
    with pytest.raises(ValueError, match="^n_elite must lie between 2 and n_plans - 1, got 64"):
        terms = {"generator": torch.Generator(), "n_elite": 64}
        cross_entropy(lambda plans: plans.sum((1, 2)), torch.zeros(4, 2), 1.0, **terms)


@pytest.mark.parametrize("scorer", [followed, expected_growth])
def test_contracts_without_quotes_are_refused(make_path, scorer) -> None:
    plans = constant(torch.tensor([[0.0, 1.0]]), 2)
    with pytest.raises(ValueError, match="^futures must be from quote"):
        scorer(make_path(torch.zeros(1, 3)), plans, 0.0, FREE)


def test_a_sequence_wins_where_the_edge_turns(model, market, make_path, monkeypatch) -> None:
    """Up for two ticks, down for two: no constant action earns, the sequence does."""
    path = make_path(torch.zeros(50, 5), risk=1e-4)
    path.reward[:] = torch.tensor([1.0, 1.0, -1.0, -1.0]) * 1e-3
    terms = {"n_futures": 50, "horizon": 4, "actions": (-2.0, -1.0, 0.0, 1.0, 2.0)}
    mpc = MPC(model, account=FREE.config, **terms, search=8)
    monkeypatch.setattr(mpc, "imagine", lambda *a: path)
    decision = mpc.decide(market.features[:1], generator=torch.Generator().manual_seed(2))
    assert decision.value.max() == 0  # the best constant action is to stay out
    assert decision.plan is not None and decision.plan_value > 0.005
    assert decision.plan[0, 0] > 1 > -1 > decision.plan[3, 0]
    assert decision.action == decision.plan[0, 0].item()
