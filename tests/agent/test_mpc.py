"""MPC: values by hand on two futures, broken futures never chosen, base rates by counting."""

import math
from dataclasses import replace

import pytest
import torch

from mambadream_lite.agent import MPC, base_rate
from mambadream_lite.agent.mpc import ACTIONS
from mambadream_lite.dream import dream, observe
from mambadream_lite.market import AccountConfig

FREE = AccountConfig(half_spread=0.0, fee=0.0)
DEAR = AccountConfig(half_spread=20.0, fee=10.0)  # 30 basis points of what is traded


def planner(model, actions=(-1.0, 0.0, 1.0, 2.0), account=FREE, **changes) -> MPC:
    terms = {"actions": actions, "account": account, "expected_reward": False} | changes
    return MPC(model, **terms)


def two_futures(make_path):
    """A price of 100 that ends at 110 in one future and at 95 in the other, after 2 ticks."""
    return make_path(torch.tensor([[100.0, 104, 110], [100.0, 97, 95]], dtype=torch.float64).log())


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_values_are_mean_log_growth_net_of_costs(model, make_path) -> None:
    position = 1.0
    decision = planner(model, account=DEAR).score(two_futures(make_path), position)
    for action in (-1.0, 0.0, 1.0, 2.0):
        paid = 1 - 30e-4 * abs(action - position)
        up, down = (math.log(paid * (1 + action * move)) for move in (0.10, -0.05))
        i = decision.of(action)
        assert decision.value[i].item() == pytest.approx((up + down) / 2, rel=1e-9)
        # of two numbers: half their distance is the sd of their mean
        assert decision.standard_error[i].item() == pytest.approx(abs(up - down) / 2, rel=1e-9)
        assert decision.prob_profit[i].item() == ((up > 0) + (down > 0)) / 2
    assert decision.action == 2.0
    assert (decision.n_futures, decision.horizon) == (2, 2)


def test_standard_error_of_the_probability_is_binomial(model, make_path) -> None:
    log_price = torch.tensor([[0.0, 0.01]] * 64 + [[0.0, -0.01]] * 36)
    decision = planner(model).score(make_path(log_price))
    i = decision.of(1.0)
    assert decision.prob_profit[i].item() == pytest.approx(0.64)
    assert decision.prob_profit_error[i].item() == pytest.approx(0.048)


def test_the_position_held_makes_moving_cost(model, make_path) -> None:
    """A gain of 20 bp does not pay for a way of 30 bp, but it is kept where one is."""
    futures = make_path(torch.tensor([[1.0, 1.002]] * 2).log())
    chosen = [
        planner(model, (-1.0, 0.0, 1.0), DEAR).score(futures, p).action for p in (0.0, 1.0, -1.0)
    ]
    assert chosen == [0.0, 1.0, -1.0]


def test_funding_is_paid_for_the_whole_horizon(model, make_path) -> None:
    account = replace(FREE, funding=0.252, bar=1 / 252)
    decision = planner(model, account=account).score(make_path(torch.zeros(2, 11)))
    assert decision.value[decision.of(2.0)].item() == pytest.approx(math.log(1 - 0.02))
    assert decision.value[decision.of(-1.0)].item() == pytest.approx(math.log(1 + 0.01))


def test_an_action_that_one_future_ruins_is_worth_nothing(model, make_path) -> None:
    """Both futures end far up, but one has been at the liquidation price of a double long."""
    futures = make_path(torch.tensor([[100.0, 100, 150], [100.0, 100, 150]]).log())
    futures.low[1, 0] = 45.0
    decision = planner(model).score(futures)
    assert decision.value[decision.of(2.0)] == -torch.inf
    assert decision.prob_profit[decision.of(2.0)].item() == 0.5
    assert decision.value[decision.of(1.0)].item() == pytest.approx(math.log(1.5))
    assert decision.action == 1.0


def test_a_high_price_ruins_a_short(model, make_path) -> None:
    futures = make_path(torch.tensor([[100.0, 90], [100.0, 90]]).log())
    futures.high[0, 0] = 210.0
    decision = planner(model).score(futures)
    assert decision.value[decision.of(-1.0)] == -torch.inf
    assert decision.action == 0.0


def test_a_broken_future_is_never_traded_on(model, make_path) -> None:
    futures = two_futures(make_path)
    futures.log_price[0, -1] = torch.nan
    decision = planner(model).score(futures)
    for action in (-1.0, 1.0, 2.0):
        assert decision.value[decision.of(action)] == -torch.inf
    assert decision.action == 0.0
    assert decision.value[decision.of(0.0)].item() == 0.0


def test_all_actions_are_scored_on_the_futures_of_one_generator(model, market) -> None:
    mpc = planner(model, n_futures=50, horizon=4)
    context = market.features[:1]
    decision = mpc.decide(context, generator=generator())
    futures = dream(model, context, n_dreams=50, horizon=4, generator=generator())
    again = mpc.score(futures)
    assert torch.equal(decision.value, again.value)
    assert decision.n_futures == 50
    assert decision.horizon == 4
    growth = torch.log1p(2 * torch.expm1(futures.log_price[:, -1]))
    assert decision.value[decision.of(2.0)].item() == pytest.approx(growth.mean().item())


def test_a_belief_decides_as_its_context_does(model, market) -> None:
    mpc, context = planner(model, n_futures=20, horizon=3), market.window(0, 30)
    context = replace(
        context,
        **{name: getattr(context, name)[:1] for name in ("features", "price", "high", "low")},
        variance=None,
    )
    by_market = mpc.decide(context, 1.0, generator=generator())
    by_belief = mpc.decide(observe(model, context), 1.0, generator=generator())
    assert torch.equal(by_market.value, by_belief.value)


def test_more_than_one_market_at_a_time_is_refused(model, market) -> None:
    with pytest.raises(ValueError, match="^decide plans for one market, got 3 contexts"):
        planner(model, n_futures=5, horizon=2).decide(market.features, generator=generator())


def test_a_horizon_of_zero_is_named(model, market) -> None:
    with pytest.raises(ValueError, match="^horizon must be at least 1, got 0"):
        planner(model, horizon=0).decide(market.features[:1], generator=generator())


def test_staying_out_must_be_possible(model) -> None:
    with pytest.raises(ValueError, match="^actions must hold 0"):
        planner(model, (-1.0, 1.0))


def test_actions_beyond_the_accounts_limit_are_refused(model) -> None:
    with pytest.raises(ValueError, match="^actions .* go beyond max_leverage 2.0"):
        planner(model, (0.0, -3.0), account=replace(FREE, max_leverage=2.0))


def test_the_books_actions_are_directions_times_leverages() -> None:
    assert sorted(ACTIONS) == list(ACTIONS)
    assert {abs(a) for a in ACTIONS} == {0, 0.5, 1, 1.5, 2, 2.5, 3, 5}
    assert [-a for a in reversed(ACTIONS)] == list(ACTIONS)


def test_an_action_that_was_not_scored_is_refused(model, make_path) -> None:
    decision = planner(model).score(two_futures(make_path))
    assert [decision.of(a) for a in (-1.0, 0.0, 1.0, 2.0)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="^action 1.5 was not scored"):
        decision.of(1.5)


def test_a_decision_prints_its_choice_first(model, make_path) -> None:
    lines = str(planner(model).score(two_futures(make_path))).splitlines()
    assert lines[0] == "2 futures of 2 ticks; chosen: +2x"
    assert [line for line in lines if "*" in line] == [lines[-1]]


def test_base_rate_counts_the_stretches_that_end_in_profit(market) -> None:
    price = torch.tensor([[100.0, 102, 101, 101.2, 99, 103]])
    made = replace(
        market.window(0, 5),
        features=market.features[:1, :5],
        price=price,
        high=price[:, 1:] + 1,
        low=price[:, 1:] - 1,
        variance=None,
    )
    # over 2 ticks: 100-101 up, 102-101.2 down, 101-99 down, 101.2-103 up
    assert base_rate(made, 2, FREE) == 0.5
    # 101 from 100 does not pay for a cost of 1 %, 103 from 101.2 does
    assert base_rate(made, 2, AccountConfig(half_spread=100.0, fee=0.0)) == 0.25
    assert base_rate(made, 5, FREE) == 1.0
    with pytest.raises(ValueError, match="^horizon must be below the market's 6 prices"):
        base_rate(made, 6, FREE)


@pytest.mark.parametrize("name", ["n_futures", "horizon"])
def test_no_futures_and_no_horizon_are_refused_by_name(model, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        planner(model, **{name: 0})
