"""The account: liquidation prices in closed form, costs to the last basis point, ruin for good."""

import numpy as np
import pytest
import torch

from mambadream_lite.market import Account, AccountConfig

FREE = {"half_spread": 0.0, "fee": 0.0}


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def after_bar(config: AccountConfig, leverage: float, low: float, high: float, close: float = 1.0):
    """An account that has held ``leverage`` already and lives through one bar."""
    account = Account(config)
    state = account.open(1, leverage)
    bar = (column(close).log(), column(high), column(low))
    return account.step(state, state.leverage, *bar)


@pytest.mark.parametrize("maintenance", [0.0, 0.004, 0.009])
@pytest.mark.parametrize("size", [2.0, 3.0, 10.0, 25.0, 50.0, 100.0])
def test_longs_are_liquidated_at_the_closed_form_price(size: float, maintenance: float) -> None:
    config = AccountConfig(maintenance=maintenance)
    price = (1 - 1 / size) / (1 - maintenance)
    assert Account(config).liquidation_price(column(size)).item() == pytest.approx(price, rel=1e-12)
    assert not after_bar(config, size, price * (1 + 1e-9), 1.0).ruined
    assert after_bar(config, size, price * (1 - 1e-9), 1.0).ruined


@pytest.mark.parametrize("maintenance", [0.0, 0.004, 0.009])
@pytest.mark.parametrize("size", [2.0, 3.0, 10.0, 25.0, 50.0, 100.0])
def test_shorts_are_liquidated_at_the_closed_form_price(size: float, maintenance: float) -> None:
    config = AccountConfig(maintenance=maintenance)
    price = (1 + 1 / size) / (1 + maintenance)
    found = Account(config).liquidation_price(column(-size)).item()
    assert found == pytest.approx(price, rel=1e-12)
    assert not after_bar(config, -size, 1.0, price * (1 - 1e-9)).ruined
    assert after_bar(config, -size, 1.0, price * (1 + 1e-9)).ruined


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
