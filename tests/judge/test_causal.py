"""Who looks ahead is caught, by one tick as by the whole sample; who looks back is not."""

from dataclasses import dataclass

import pytest
import torch

from mambadream_lite.agent import MovingAverageRule
from mambadream_lite.judge import backtest, check_causal
from mambadream_lite.judge.causal import _with_future
from mambadream_lite.market import HestonParams, Market, Scaler, make_heston_market
from mambadream_lite.model import MambaWorldModel

WARMUP = 20
TICKS = (25, 50, 98)


@pytest.fixture(scope="module", params=[1, 3], ids=["one path", "three paths"])
def market(request) -> Market:
    return make_heston_market(HestonParams(), request.param, 100, seed=2)


@dataclass
class Signal:
    """Trades a signal (B, T) that was computed beforehand: column t is for bar t."""

    values: torch.Tensor

    def act(self, observation, state, generator) -> torch.Tensor:
        return self.values[:, WARMUP + observation.log_price.shape[1] - 1].double()


def trailing(x: torch.Tensor, window: int) -> torch.Tensor:
    """Mean (B, T) of the ``window`` values before each."""
    mean = x.unfold(1, window, 1).mean(-1)
    return torch.nn.functional.pad(mean, (window, 0))[:, : x.shape[1]]


HONEST = {
    "moving average": lambda market: MovingAverageRule(10),
    "trailing mean": lambda market: Signal(trailing(market.features[..., 2], 10).tanh()),
    "last return": lambda market: Signal(
        torch.nn.functional.pad(market.log_return, (1, 0))[:, :-1].sign()
    ),
    "open of the bar": lambda market: Signal((market.price[:, :-1] - market.price[:, :1]).sign()),
}
CHEATS = {
    "sign of the coming return": lambda market: Signal(market.log_return.sign()),
    "features of the coming bar": lambda market: Signal(market.features[..., 2].tanh()),
    "close of the coming bar": lambda market: Signal(
        10 * (market.price[:, 1:] / market.price[:, :1]).log()
    ),
    "low of the coming bar": lambda market: Signal(market.low / market.price[:, :-1]),
    "scaler of the whole sample": lambda market: Signal(
        Scaler().fit(market).transform(market.features)[..., 2].roll(1, dims=1).tanh()
    ),
    "mean return of the whole sample": lambda market: Signal(
        (market.log_return - market.log_return.mean(1, keepdim=True)).roll(1, dims=1).sign()
    ),
    "end of the sample": lambda market: Signal(
        market.log_return.sum(1, keepdim=True).sign().expand(-1, 100)
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_the_past_may_be_used(market: Market, name: str) -> None:
    result = check_causal(HONEST[name], market, ticks=TICKS, warmup=WARMUP, seed=0)
    direct = backtest(HONEST[name](market), market, warmup=WARMUP)
    assert torch.equal(result.equity, direct.equity) and result.leverage.abs().max() > 0


@pytest.mark.parametrize("name", CHEATS)
def test_the_future_may_not(market: Market, name: str) -> None:
    with pytest.raises(ValueError, match=r"^build looks ahead: the decision for bar \d+"):
        check_causal(CHEATS[name], market, ticks=TICKS, warmup=WARMUP, seed=0)


def test_who_peeks_one_bar_ahead_is_caught_at_that_bar(market: Market) -> None:
    """The decision for bar 50 is the only one up to there that knows of it."""
    with pytest.raises(ValueError, match=r"for bar 50 \(50\) changes by .* from 50 on"):
        check_causal(CHEATS["sign of the coming return"], market, ticks=[50], warmup=WARMUP, seed=0)


def test_walking_forward_cures_the_scaler(market: Market) -> None:
    @dataclass
    class Standardised:
        scaler: Scaler

        def act(self, observation, state, generator):
            return self.scaler.transform(observation.features)[:, 2].tanh()

    def build(past: Market) -> Standardised:
        return Standardised(Scaler().fit(past))

    with pytest.raises(ValueError, match="^build looks ahead: the decision for bar 20"):
        check_causal(build, market, ticks=[50], warmup=WARMUP, seed=0)
    check_causal(build, market, ticks=[50, 98], warmup=WARMUP, seed=0, every=15)


def test_a_world_model_forecasts_from_the_past(market: Market) -> None:
    torch.manual_seed(0)
    model = MambaWorldModel(d_model=16, d_state=8, n_components=3)
    model.fit_scaler(market)
    model.eval().requires_grad_(False)

    class ByRisk:
        def act(self, observation, state, generator):
            return 1e-3 / observation.risk

    result = check_causal(
        lambda world: ByRisk(), market, ticks=TICKS, warmup=WARMUP, seed=0, model=model
    )
    assert result.leverage.std() > 0.01


def test_every_run_of_a_policy_that_draws_has_the_same_draws(market: Market) -> None:
    class Gambler:
        def act(self, observation, state, generator):
            return torch.rand(len(state.equity), generator=generator)

    generator = torch.Generator().manual_seed(3)
    check_causal(
        lambda world: Gambler(), market, ticks=[50], warmup=WARMUP, seed=0, generator=generator
    )


def test_another_future_is_made_of_whole_bars(market: Market) -> None:
    bars = torch.tensor([7, 7, 90]).numpy()
    start = 97
    other = _with_future(market, start, bars)
    assert torch.equal(other.features[:, :97], market.features[:, :97])
    assert torch.equal(other.price[:, :98], market.price[:, :98])
    for t, bar in zip(range(97, 100), bars, strict=True):
        assert torch.equal(other.features[:, t], market.features[:, bar])
        for side in ("high", "low"):
            there = getattr(other, side)[:, t] / other.price[:, t]
            here = getattr(market, side)[:, bar] / market.price[:, bar]
            torch.testing.assert_close(there, here)
        torch.testing.assert_close(other.log_return[:, t], market.log_return[:, bar])
        assert torch.equal(other.variance[:, t + 1], market.variance[:, bar + 1])
    assert (other.low <= other.price[:, 1:] * (1 + 1e-12)).all()


@pytest.mark.parametrize("ticks", [[], [19], [50, 100]])
def test_ticks_outside_the_market_are_refused(market: Market, ticks: list[int]) -> None:
    with pytest.raises(ValueError, match="^ticks must hold bars from 20 to 99"):
        check_causal(HONEST["moving average"], market, ticks=ticks, warmup=WARMUP, seed=0)
