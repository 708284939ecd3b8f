"""Backtests against hand-made accounts; walking forward sees the past only; nothing is lost."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from mambadream_lite.agent import BuyAndHold, Flat, MovingAverageRule, PolicyError
from mambadream_lite.agent.trading import replay
from mambadream_lite.dream import quote, watch
from mambadream_lite.judge import Backtest, BacktestError, backtest
from mambadream_lite.market import (
    Account,
    AccountConfig,
    HestonParams,
    Market,
    VolatilityContract,
    make_heston_market,
)
from mambadream_lite.model import MambaWorldModel

WARMUP = 20
CONTRACT = VolatilityContract(gain=0.015, fear=-0.006, jolt=1e-3, pull=0.002, level=0.04)


@pytest.fixture(scope="module")
def market() -> Market:
    return make_heston_market(HestonParams(), 3, 80, seed=1)


@pytest.fixture(scope="module")
def model(market: Market) -> MambaWorldModel:
    torch.manual_seed(0)
    model = MambaWorldModel(d_model=16, d_state=8, n_components=3)
    model.fit_scaler(market)
    return model.eval().requires_grad_(False)


@dataclass
class Scripted:
    """Holds what the script says, tick after tick; fails where it says nothing."""

    script: list[float | None]
    seen: list = field(default_factory=list)

    def act(self, observation, state, generator) -> torch.Tensor:
        self.seen.append(observation)
        wanted = self.script[len(self.seen) - 1]
        if wanted is None:
            raise KeyError("no entry")
        return torch.full_like(state.equity, wanted)


def hand_made(*log_growth: float, bar: float = 0.01, traded: float = 0.5) -> Backtest:
    r = torch.tensor([log_growth], dtype=torch.float64)
    equity = torch.cat([torch.zeros(1, 1), r.cumsum(1)], 1).exp()
    nothing = torch.zeros_like(r)
    return Backtest(bar, equity, nothing, nothing, nothing + traded, equity == 0)


def test_equity_compounds_returns_less_costs_from_the_warm_up_on(market: Market) -> None:
    result = backtest(BuyAndHold(2.0), market, warmup=WARMUP)
    paid = 1 - 2 * 0.7e-4  # half a spread and a fee, once
    price = (market.price[:, WARMUP:] / market.price[:, [WARMUP]]).numpy()
    expected = paid * (1 + 2 * (price - 1))
    assert np.allclose(result.equity[:, 1:], expected[:, 1:], rtol=1e-12)
    assert result.time.tolist() == list(range(WARMUP - 1, 80))
    assert result.traded[:, 0].tolist() == [2.0] * 3 and result.traded[:, 1:].abs().max() < 1e-12
    assert result.bar == market.bar and not result.ruined.any()


class ByRisk:
    """Holds more where less risk is seen."""

    def act(self, observation, state, generator) -> torch.Tensor:
        return 1e-3 / observation.risk


def test_with_a_model_it_is_replay_on_what_the_model_watched(market: Market, model) -> None:
    path = watch(model, market, WARMUP)
    result = backtest(ByRisk(), market, model=model, warmup=WARMUP)
    assert torch.equal(result.equity, replay(ByRisk(), path, Account()).equity)
    assert torch.equal(result.leverage, (1e-3 / path.risk).double())


def test_without_a_model_there_is_no_forecast(market: Market) -> None:
    rule = Scripted([0.0] * 60)
    backtest(rule, market, warmup=WARMUP)
    assert all((o.reward == 0).all() and (o.risk == 1).all() for o in rule.seen)
    assert torch.equal(rule.seen[0].features, market.features[:, WARMUP - 1])


def test_a_contract_is_quoted_from_the_strike_of_the_warm_up(market: Market, model) -> None:
    class Seller:
        def act(self, observation, state, generator):
            return torch.stack([0 * state.equity, -observation.strike.double()], dim=1)

    result = backtest(Seller(), market, model=model, warmup=WARMUP, contract=CONTRACT)
    strikes = CONTRACT.strikes(market.features.double())[:, WARMUP:-1]
    torch.testing.assert_close(-result.contracts, strikes)
    path = quote(watch(model, market, WARMUP), CONTRACT, strikes[:, 0])
    paid = 1 - 2e-4 * strikes
    expected = (paid * (1 - strikes * path.payoff)).cumprod(1)
    torch.testing.assert_close(result.equity[:, 1:], expected)
    assert (result.traded == 0).all()


def test_the_default_account_charges_funding_by_the_markets_bar(market: Market) -> None:
    daily = replace(market, bar=1 / 252)
    dear = Account(AccountConfig(funding=0.1))
    with pytest.raises(ValueError, match=r"^account charges funding for bars of 5\.\d+e-05"):
        backtest(BuyAndHold(), daily, warmup=WARMUP, account=dear)
    right = Account(AccountConfig(funding=0.1, bar=1 / 252))
    assert (
        backtest(BuyAndHold(), daily, warmup=WARMUP, account=right).equity[:, -1]
        < backtest(BuyAndHold(), daily, warmup=WARMUP).equity[:, -1]
    ).all()


def test_statistics_by_hand() -> None:
    growth = [0.02, -0.05, 0.01, 0.03, -0.01]
    result, r = hand_made(*growth), np.expm1(growth)
    assert result.growth().item() == pytest.approx(0.0 / 5 * 100, abs=1e-12)
    assert result.growth(slice(0, 2)).item() == pytest.approx(-1.5)
    assert result.growth_bp(slice(0, 2)).item() == pytest.approx(-150)
    assert result.volatility().item() == pytest.approx(r.std(ddof=1) * 10)
    assert result.sharpe().item() == pytest.approx(r.mean() / r.std(ddof=1) * 10)
    assert result.drawdown().item() == pytest.approx(1 - np.exp(-0.05))
    assert result.turnover().item() == pytest.approx(50)
    again = torch.tensor([1, 1, 0])  # as a bootstrap draws bars
    assert result.drawdown(again).item() == pytest.approx(1 - np.exp(-0.10))


def test_who_does_nothing_has_a_sharpe_ratio_of_zero(market: Market) -> None:
    result = backtest(Flat(), market, warmup=WARMUP)
    assert result.sharpe().tolist() == [0, 0, 0] and result.drawdown().tolist() == [0, 0, 0]


def test_ruin_is_finite(market: Market) -> None:
    price = market.price.clone()
    price[0, WARMUP + 5 :] *= 0.5
    low = market.low.clone()
    low[0, WARMUP + 4 :] *= 0.5
    fallen = replace(market, price=price, low=low)
    result = backtest(BuyAndHold(20.0), fallen, warmup=WARMUP)
    assert result.ruined[:, -1].tolist() == [True, False, False]
    assert result.log_growth.isfinite().all() and (result.traded[0, 6:] == 0).all()
    assert result.log_growth[0].sum().item() == pytest.approx(np.log(1e-3))
    assert result.drawdown()[0].item() == pytest.approx(1 - 1e-3 / result.equity[0].max().item())


def test_walking_forward_hands_over_the_past_and_nothing_else(market: Market) -> None:
    pasts = []

    def build(past: Market) -> Scripted:
        pasts.append(past)
        return Scripted([float(len(pasts))] * 25)

    result = backtest(build, market, warmup=WARMUP, every=25)
    assert [p.features.shape[1] for p in pasts] == [20, 45, 70]
    for past in pasts:
        n = past.features.shape[1]
        assert torch.equal(past.price, market.price[:, : n + 1])  # the last is the open of bar n
    assert result.leverage[0].tolist() == [1.0] * 25 + [2.0] * 25 + [3.0] * 10


def test_walking_forward_with_the_same_rule_is_that_rule(market: Market) -> None:
    rule = MovingAverageRule(10)
    once = backtest(rule, market, warmup=WARMUP)
    often = backtest(lambda past: MovingAverageRule(10), market, warmup=WARMUP, every=7)
    assert torch.equal(once.equity, often.equity) and once.leverage.abs().max() == 1


@pytest.mark.parametrize("failing", [0, 7, 59])
def test_a_policy_that_fails_loses_nothing(market: Market, failing: int) -> None:
    script = [1.0, -1.0] * 30
    whole = backtest(Scripted(script), market, warmup=WARMUP)
    broken = Scripted([*script[:failing], None])
    with pytest.raises(BacktestError, match=f"before tick {failing} of 60: KeyError") as caught:
        backtest(broken, market, warmup=WARMUP)
    record = caught.value.record
    assert f"last closed bar is {WARMUP + failing - 1}" in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError) and caught.value.tick == failing
    assert torch.equal(record.equity, whole.equity[:, : failing + 1])
    for name in ("leverage", "contracts", "traded"):
        assert torch.equal(getattr(record, name), getattr(whole, name)[:, :failing])
    assert len(record.time) == failing + 1
    assert caught.value.episode.flows.fee.shape == (3, failing)


def test_a_builder_that_fails_loses_nothing_either(market: Market) -> None:
    def build(past: Market) -> Flat:
        if past.features.shape[1] > WARMUP:
            raise ArithmeticError("did not converge")
        return Flat()

    with pytest.raises(PolicyError, match="before tick 30 of 60: ArithmeticError") as caught:
        backtest(build, market, warmup=WARMUP, every=30)
    assert caught.value.record.leverage.shape == (3, 30)


@pytest.mark.parametrize("wanted", [101.0, float("nan")])
def test_what_the_account_refuses_loses_nothing_either(market: Market, wanted: float) -> None:
    why = f"before tick 2 of 60: ValueError: target leverage must lie within.*got {wanted}"
    with pytest.raises(BacktestError, match=why) as caught:
        backtest(Scripted([1.0, 1.0, wanted]), market, warmup=WARMUP)
    whole = backtest(Scripted([1.0] * 60), market, warmup=WARMUP)
    assert torch.equal(caught.value.record.equity, whole.equity[:, :3])


def test_an_answer_of_the_wrong_shape_is_still_a_value_error(market: Market) -> None:
    class Wrong:
        def act(self, observation, state, generator):
            return torch.zeros(2)

    with pytest.raises(ValueError, match=r"^policy must return \(3,\) or \(3, 2\), got \(2,\)"):
        backtest(Wrong(), market, warmup=WARMUP)


@pytest.mark.parametrize("warmup", [0, 80])
def test_a_warm_up_that_leaves_nothing_is_refused(market: Market, warmup: int) -> None:
    with pytest.raises(ValueError, match=f"^warmup must lie between 1 and 79 ticks, got {warmup}"):
        backtest(Flat(), market, warmup=warmup)


def test_policies_and_builders_are_told_apart(market: Market) -> None:
    with pytest.raises(TypeError, match="^policy must have a method act"):
        backtest(lambda past: Flat(), market, warmup=WARMUP)
    with pytest.raises(TypeError, match="^policy must be a builder"):
        backtest(Flat(), market, warmup=WARMUP, every=5)
    with pytest.raises(ValueError, match="^every must be at least 1 tick, got 0"):
        backtest(lambda past: Flat(), market, warmup=WARMUP, every=0)


def test_any_forecast_can_be_shown_instead_of_a_models(market: Market, model) -> None:
    """A path with the model's own forecasts trades as the model's name does."""
    path = watch(model, market, WARMUP)
    by_path = backtest(ByRisk(), market, path=path, warmup=WARMUP)
    by_model = backtest(ByRisk(), market, model=model, warmup=WARMUP)
    assert torch.equal(by_path.equity, by_model.equity) and by_path.leverage.all()
    for terms in ({"path": path, "model": model}, {"path": watch(model, market, WARMUP + 1)}):
        with pytest.raises(ValueError, match="^path must have"):
            backtest(ByRisk(), market, warmup=WARMUP, **terms)
