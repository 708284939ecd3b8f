"""The account: liquidation prices in closed form, costs to the last basis point, ruin for good."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from mambadream_lite.market import Account, AccountConfig, Flows

FREE = {"half_spread": 0.0, "fee": 0.0}
SIZES = [2.0, 3.0, 5.0, 10.0, 25.0, 50.0, 100.0]


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def after_bar(config: AccountConfig, leverage: float, low: float, high: float, close: float = 1.0):
    """An account that has held ``leverage`` already and lives through one bar."""
    account = Account(config)
    state = account.open(1, leverage)
    bar = (column(close).log(), column(high), column(low))
    return account.step(state, state.leverage, *bar)


@pytest.mark.parametrize("maintenance", [0.0, 0.004, 0.009])
@pytest.mark.parametrize("size", SIZES)
def test_longs_are_liquidated_at_the_closed_form_price(size: float, maintenance: float) -> None:
    config = AccountConfig(maintenance=maintenance)
    price = (1 - 1 / size) / (1 - maintenance)
    assert Account(config).liquidation_price(column(size)).item() == pytest.approx(price, rel=1e-12)
    assert not after_bar(config, size, price * (1 + 1e-9), 1.0).ruined
    assert after_bar(config, size, price * (1 - 1e-9), 1.0).ruined


@pytest.mark.parametrize("maintenance", [0.0, 0.004, 0.009])
@pytest.mark.parametrize("size", SIZES)
def test_shorts_are_liquidated_at_the_closed_form_price(size: float, maintenance: float) -> None:
    config = AccountConfig(maintenance=maintenance)
    price = (1 + 1 / size) / (1 + maintenance)
    found = Account(config).liquidation_price(column(-size)).item()
    assert found == pytest.approx(price, rel=1e-12)
    assert not after_bar(config, -size, 1.0, price * (1 - 1e-9)).ruined
    assert after_bar(config, -size, 1.0, price * (1 + 1e-9)).ruined


def test_liquidation_table() -> None:
    """Run with -s to see it: where a search through ``step`` and the closed form put the price."""
    print(f"\n{'leverage':>9}{'m':>7}{'formula':>12}{'searched':>12}")
    for size in SIZES:
        for maintenance in (0.0, 0.004, 0.009):
            for side in (1, -1):
                config = AccountConfig(maintenance=maintenance)
                formula = (1 - side / size) / (1 - side * maintenance)

                def survives(price: float, config=config, size=size, side=side) -> float:
                    bar = (min(price, 1.0), max(price, 1.0))
                    return 0.5 - after_bar(config, side * size, *bar).ruined.item()

                searched = brentq(survives, 1.0 - 1e-4 * side, 1 - side * 0.6, xtol=1e-13)
                print(f"{side * size:>9.0f}{maintenance:>7.1%}{formula:>12.6f}{searched:>12.6f}")
                assert searched == pytest.approx(formula, abs=1e-9)


def test_a_hundredfold_long_dies_of_six_tenths_of_a_percent() -> None:
    fall = Account(AccountConfig(maintenance=0.004)).liquidation_price(column(100.0)) - 1
    assert 100 * fall.item() == pytest.approx(-0.602, abs=5e-4)


def test_reaching_the_liquidation_price_is_enough() -> None:
    assert after_bar(AccountConfig(maintenance=0.0), 2.0, 0.5, 1.0).ruined  # 0.5 is exact


def test_only_the_far_side_of_the_bar_hurts() -> None:
    config = AccountConfig(maintenance=0.0)
    assert not after_bar(config, 2.0, 1.0, 3.0, close=3.0).ruined
    assert not after_bar(config, -2.0, 0.1, 1.0, close=0.1).ruined


def test_a_position_below_its_margin_at_once_is_liquidated() -> None:
    """2 % maintenance on a hundredfold position is twice its equity."""
    assert after_bar(AccountConfig(maintenance=0.02), 100.0, 1.0, 1.0).ruined


def test_a_flat_account_survives_anything() -> None:
    state = after_bar(AccountConfig(), 0.0, 1e-6, 1e6)
    assert not state.ruined
    assert state.equity.item() == 1


def test_ruin_is_for_good() -> None:
    account = Account(AccountConfig(max_leverage=10))
    state = account.open(1, 10.0)
    state = account.step(state, column(10.0), column(0.0), column(1.0), column(0.8))
    for target in (10.0, -10.0, 0.0):
        state = account.step(state, column(target), column(0.5), column(2.0), column(1.0))
        assert state.ruined
        assert state.equity.item() == state.leverage.item() == 0
        assert state.drawdown.item() == 1


def test_one_ruined_account_leaves_its_neighbours_alone() -> None:
    account = Account(AccountConfig(**FREE))
    target = column(50.0, 1.0, -1.0)
    state = account.open(3, target)
    bar = (column(0.98, 0.98, 0.98).log(), column(1.0, 1.0, 1.0), column(0.97, 0.97, 0.97))
    state = account.step(state, target, *bar)
    assert state.ruined.tolist() == [True, False, False]
    assert state.equity.tolist() == pytest.approx([0.0, 0.98, 1.02], rel=1e-12)


def test_money_in_is_equity_and_costs() -> None:
    """At prices that do not move, all that leaves the account are spread and fee."""
    config = AccountConfig(half_spread=3.0, fee=1.5, max_leverage=10)
    account, flat = Account(config), column(1.0)
    state, paid, held = account.open(1), 0.0, 0.0
    for target in np.random.default_rng(1).uniform(-10, 10, 50):
        paid += state.equity.item() * 4.5e-4 * abs(target - held)
        state = account.step(state, column(target), column(0.0), flat, flat)
        held = target
        assert state.leverage.item() == pytest.approx(target, rel=1e-12)
    assert state.equity.item() + paid == pytest.approx(1.0, rel=1e-12)
    assert paid > 0.05


def test_equity_and_leverage_follow_a_ledger_of_units_and_cash() -> None:
    account = Account(AccountConfig(half_spread=2.0, fee=0.0, max_leverage=5))
    rng = np.random.default_rng(2)
    state, wealth, held = account.open(1), 1.0, 0.0
    for target, r in zip(rng.uniform(-5, 5, 30), 0.01 * rng.standard_normal(30), strict=True):
        wealth -= wealth * 2e-4 * abs(target - held)
        units, price = target * wealth, np.exp(r)  # the price is 1 at each open
        wealth = (wealth - units) + units * price
        held = units * price / wealth
        high, low = column(max(price, 1.0)), column(min(price, 1.0))
        state = account.step(state, column(target), column(r), high, low)
        assert state.equity.item() == pytest.approx(wealth, rel=1e-12)
        assert state.leverage.item() == pytest.approx(held, rel=1e-12)


def test_holding_on_costs_nothing() -> None:
    account = Account(AccountConfig(half_spread=10.0))
    state = account.open(1, 2.0)
    for _ in range(3):
        price = column(1.05)
        before = state
        state = account.step(state, state.leverage, price.log(), price, column(1.0))
        growth = (state.equity / before.equity).item()
        assert growth == pytest.approx(1 + before.leverage.item() * 0.05, rel=1e-12)


@pytest.mark.parametrize(("leverage", "equity"), [(2.0, 1 - 2 * 0.05 / 252), (-2.0, 1 + 0.1 / 252)])
def test_longs_pay_funding_and_shorts_receive_it(leverage: float, equity: float) -> None:
    config = AccountConfig(**FREE, funding=0.05, bar=1 / 252)
    assert after_bar(config, leverage, 1.0, 1.0).equity.item() == pytest.approx(equity, rel=1e-12)


def test_drawdown_is_measured_from_the_highest_equity() -> None:
    account = Account(AccountConfig(**FREE))
    state, drawdowns = account.open(1), []
    for price in (1.2, 0.9, 0.5, 1.5):
        edge = (column(max(price, 1.0)), column(min(price, 1.0)))
        state = account.step(state, column(1.0), column(price).log(), *edge)
        drawdowns.append(state.drawdown.item())
    assert drawdowns == pytest.approx([0.0, 0.1, 0.55, 0.325], abs=1e-12)


def test_a_step_leaves_the_state_before_it_alone() -> None:
    account = Account()
    before = account.open(1)
    account.step(before, column(100.0), column(-0.5), column(1.0), column(0.5))
    assert before.equity.item() == 1
    assert not before.ruined


@pytest.mark.parametrize("target", [11.0, -11.0, float("nan"), float("inf")])
def test_a_target_beyond_the_limit_is_refused(target: float) -> None:
    account = Account(AccountConfig(max_leverage=10))
    bar = (column(0.0, 0.0), column(1.0, 1.0), column(1.0, 1.0))
    with pytest.raises(ValueError, match=rf"target leverage.*10.*{target}"):
        account.step(account.open(2), column(1.0, target), *bar)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_leverage", -1.0),
        ("max_leverage", 0.0),
        ("max_leverage", float("nan")),
        ("half_spread", -0.1),
        ("half_spread", float("nan")),
        ("fee", -0.1),
        ("fee", float("nan")),
        ("maintenance", -0.1),
        ("maintenance", 1.0),
        ("maintenance", float("nan")),
        ("bar", 0.0),
        ("bar", -1.0),
    ],
)
def test_impossible_terms_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*{value}"):
        AccountConfig(**{name: value})


def test_an_unknown_funding_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="funding"):
        AccountConfig(funding=float("nan"))


@pytest.mark.parametrize("name", ["log_return", "high", "low"])
def test_a_bar_that_is_not_finite_is_refused(name: str) -> None:
    account, bar = Account(), {k: torch.ones(1) for k in ("log_return", "high", "low")}
    bar[name] = torch.full((1,), float("nan"))
    with pytest.raises(ValueError, match=name):
        account.step(account.open(1), torch.zeros(1), **bar)


# --- the second instrument ----------------------------------------------------------------------


def with_contracts(config: AccountConfig, contracts: float, payoff: float, leverage: float = 0.0):
    """One account that holds ``leverage``, opens ``contracts`` and lives through a still bar."""
    account, flat = Account(config), column(1.0)
    state = account.open(1, leverage)
    second = {"contracts": column(contracts), "payoff": column(payoff)}
    return account.step(state, state.leverage, column(0.0), flat, flat, **second)


@pytest.mark.parametrize(("contracts", "payoff"), [(10.0, 0.02), (-10.0, 0.02), (-40.0, -0.01)])
def test_contracts_earn_their_payoff_less_their_fee(contracts: float, payoff: float) -> None:
    state = with_contracts(AccountConfig(contract_fee=3.0), contracts, payoff)
    cost = abs(contracts) * 3e-4
    assert state.equity.item() == pytest.approx((1 - cost) * (1 + contracts * payoff), rel=1e-12)
    assert state.flows.contract_cost.item() == pytest.approx(cost, rel=1e-12)
    assert state.flows.opened.item() == contracts
    assert state.leverage.item() == 0  # settled: nothing is carried over


@pytest.mark.parametrize("side", [1, -1])
def test_a_contract_alone_liquidates_at_the_margin(side: int) -> None:
    config = AccountConfig(contract_fee=0.0, maintenance=0.25)
    # 1 + 2 * payoff against 0.25 * 2: all of it exact in binary
    assert with_contracts(config, 2.0 * side, -0.25 * side).ruined
    assert not with_contracts(config, 2.0 * side, -0.2499 * side).ruined


def test_both_instruments_are_margined_together() -> None:
    config = AccountConfig(**FREE, contract_fee=0.0, maintenance=0.1)
    assert not with_contracts(config, 0.0, 0.0, leverage=8.0).ruined
    assert not with_contracts(config, 1.9, 0.0, leverage=8.0).ruined
    assert with_contracts(config, 2.0, 0.0, leverage=8.0).ruined
    # and inside the bar: the contract's margin brings the price of liquidation nearer
    account, bar = Account(config), (column(0.0), column(1.0), column(0.89))
    state = account.open(1, 5.0)
    second = {"contracts": column(4.0), "payoff": column(0.0)}
    assert not account.step(state, state.leverage, *bar).ruined
    assert account.step(state, state.leverage, *bar, **second).ruined  # 0.45 <= 0.1 (4.45 + 4)


def test_a_won_contract_does_not_undo_a_liquidation_inside_the_bar() -> None:
    account = Account(AccountConfig(**FREE, contract_fee=0.0))
    state = account.open(1, 10.0)
    second = {"contracts": column(10.0), "payoff": column(0.5)}
    bar = (column(0.0), column(1.0), column(0.9))
    assert account.step(state, state.leverage, *bar, **second).ruined


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"contracts": column(1.0)}, "given together"),
        ({"payoff": column(1.0)}, "given together"),
        ({"contracts": column(1.0), "payoff": column(float("nan"))}, "payoff must be finite"),
        ({"contracts": column(-101.0), "payoff": column(0.0)}, "contracts must lie within"),
        ({"contracts": column(float("nan")), "payoff": column(0.0)}, "contracts must lie within"),
    ],
)
def test_contracts_that_cannot_be_settled_are_refused(second: dict, message: str) -> None:
    account, flat = Account(), column(1.0)
    with pytest.raises(ValueError, match=message):
        account.step(account.open(1), column(0.0), column(0.0), flat, flat, **second)


# --- the position limit -------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, -1])
def test_no_position_outgrows_its_limit(side: int) -> None:
    account, flat = Account(AccountConfig(**FREE, contract_fee=0.0, position_limit=6.0)), column(1)
    state = account.open(1)
    second = {"contracts": column(4.0 * side), "payoff": column(0.5 * side)}
    state = account.step(state, column(0.0), column(0.0), flat, flat, **second)
    assert state.flows.opened.item() == 4 * side  # within the limit: as asked for
    assert state.equity.item() == pytest.approx(3.0)
    second = {"contracts": column(4.0 * side), "payoff": column(0.0)}
    state = account.step(state, column(5.0 * side), column(0.0), flat, flat, **second)
    assert state.flows.opened.item() == pytest.approx(6.0 * side)  # 4 x 3 is cut to 6
    assert state.leverage.item() * state.equity.item() == pytest.approx(6.0 * side)


# --- where the money went -----------------------------------------------------------------------


def money(state) -> torch.Tensor:
    """Equity, and what a bar's flows say was paid, less what they say was earned."""
    f = state.flows
    paid = f.spread + f.fee + f.funding + f.contract_cost + f.forfeited
    return state.equity + paid - f.asset_pnl - f.contract_pnl


def test_no_money_is_lost_over_a_hundred_thousand_trades() -> None:
    n, generator = 1000, torch.Generator().manual_seed(3)
    config = AccountConfig(funding=0.3, bar=1 / 252, maintenance=0.004, position_limit=50.0)
    account = Account(config)
    state, kept, trades = account.open(n), torch.zeros(n, dtype=torch.float64), 0

    def normal() -> torch.Tensor:
        return torch.randn(n, generator=generator, dtype=torch.float64)

    for _ in range(200):
        target, contracts = (20 * normal()).clamp(-100, 100), (20 * normal()).clamp(-100, 100)
        r, reach = 5e-3 * normal(), 1e-3 * normal().abs()
        high, low = (r.clamp(min=0) + reach).exp(), (r.clamp(max=0) - reach).exp()
        second = {"contracts": contracts, "payoff": (0.004 * normal()).clamp(-0.01, 0.03)}
        before = state
        state = account.step(before, target, r, high, low, **second)
        assert (money(state) - before.equity).abs().max() < 1e-12 * max(1, before.equity.max())
        # what is forfeited is all that is missing, and only where an account was closed
        closed = state.ruined & ~before.ruined
        assert (state.flows.forfeited[~closed] == 0).all()
        kept += before.equity - money(state)
        trades += int((state.flows.traded != 0).sum() + (state.flows.opened != 0).sum())
    assert trades > 100_000
    assert kept.abs().max() < 1e-9
    assert 50 < state.ruined.sum() < 950


def test_flows_follow_a_ledger_of_units_and_cash() -> None:
    """The same account kept by hand: units of the asset, cash, and a contract settled apart."""
    config = AccountConfig(half_spread=2.0, fee=1.0, contract_fee=4.0, funding=0.1, bar=1 / 252)
    account, rng = Account(config), np.random.default_rng(4)
    state, cash, units, price = account.open(1), 1.0, 0.0, 100.0
    for target, lots in rng.uniform(-4, 4, (30, 2)):
        equity = cash + units * price
        traded = target * equity - units * price
        cost = 3e-4 * abs(traded) + 4e-4 * abs(lots) * equity + 0.1 / 252 * target * equity
        # costs come out of equity, and the position is scaled to what is left of it
        left = equity - cost
        units, cash = target * left / price, left - target * left
        moved, payoff = np.exp(0.02 * rng.standard_normal()), 0.02 * rng.standard_normal()
        earned, price = units * price * (moved - 1), price * moved
        settled = lots * left * payoff
        cash += settled
        bar = (column(moved).log(), column(max(moved, 1.0)), column(min(moved, 1.0)))
        second = {"contracts": column(lots), "payoff": column(payoff)}
        state = account.step(state, column(target), *bar, **second)
        assert state.equity.item() == pytest.approx(cash + units * price, rel=1e-12)
        flows = {f.name: getattr(state.flows, f.name).item() for f in fields(Flows)}
        assert flows["traded"] == pytest.approx(traded, rel=1e-9, abs=1e-12)
        assert flows["spread"] == pytest.approx(2e-4 * abs(traded), rel=1e-9)
        assert flows["fee"] == pytest.approx(1e-4 * abs(traded), rel=1e-9)
        assert flows["asset_pnl"] == pytest.approx(earned, rel=1e-9, abs=1e-15)
        assert flows["contract_pnl"] == pytest.approx(settled, rel=1e-9, abs=1e-15)
        assert flows["funding"] == pytest.approx(0.1 / 252 * target * equity, rel=1e-9)


def test_a_liquidation_forfeits_what_was_left_and_a_debt_is_written_off() -> None:
    left = after_bar(AccountConfig(maintenance=0.2), 2.0, 0.6, 1.0, close=0.9)
    assert left.flows.forfeited.item() == pytest.approx(0.8)
    debt = after_bar(AccountConfig(), 3.0, 0.5, 1.0, close=0.5)
    assert debt.flows.forfeited.item() == pytest.approx(-0.5)
    assert debt.equity.item() == 0


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(
    leverage=st.floats(-100, 100),
    target=st.floats(-100, 100),
    contracts=st.floats(-100, 100),
    payoff=st.floats(-0.01, 0.03),
    r=st.floats(-3, 3),
    reach=st.floats(0, 1),
)
def test_any_bar_leaves_equity_at_or_above_zero_and_no_money_unaccounted(
    leverage, target, contracts, payoff, r, reach
) -> None:
    account = Account(AccountConfig(funding=0.5, bar=1.0))
    before = account.open(1, leverage)
    high, low = np.exp(max(r, 0) + reach), np.exp(min(r, 0) - reach)
    second = {"contracts": column(contracts), "payoff": column(payoff)}
    state = account.step(before, column(target), column(r), column(high), column(low), **second)
    assert state.equity >= 0 and torch.isfinite(state.leverage)
    assert (state.equity == 0) == state.ruined
    assert money(state).item() == pytest.approx(1.0, abs=1e-9)
    assert 0 <= state.drawdown <= 1


def test_what_is_held_may_drift_beyond_the_limit_but_no_order_goes_there() -> None:
    account = Account(AccountConfig(half_spread=0.0, fee=0.0, maintenance=0.0))
    state = account.open(1, 60.0)
    fallen = column(0.99)
    state = account.step(state, state.leverage, fallen.log(), column(1.0), fallen)
    assert state.leverage.item() == pytest.approx(60 * 0.99 / (1 - 60 * 0.01))  # 148x
    still = (column(0.0), column(1.0), column(1.0))
    after = account.step(state, state.leverage, *still)
    assert after.equity.item() == pytest.approx(0.4) and after.flows.traded.item() == 0
    with pytest.raises(ValueError, match=r"^target leverage must lie within \+-100"):
        account.step(state, state.leverage - 1, *still)
