"""Figures of backtests and of reliability: what is drawn is what was recorded."""

import numpy as np
import pytest

from mambadream_lite.agent import BuyAndHold, MovingAverageRule
from mambadream_lite.judge import backtest, reliability
from mambadream_lite.market import HestonParams, make_heston_market
from mambadream_lite.show import COLOURS, equity_figure, reliability_figure


def test_equity_and_drawdown_are_drawn_as_recorded() -> None:
    market = make_heston_market(HestonParams(), 1, 60, seed=1)
    tests = {
        "hold": backtest(BuyAndHold(), market, warmup=10),
        "average": backtest(MovingAverageRule(5), market, warmup=10),
    }
    figure = equity_figure(tests, title="holding wins")
    above, below = figure.axes
    assert above.get_yscale() == "log" and above.get_title() == "holding wins"
    assert above.yaxis.get_minor_formatter()(0.6) == "0.6"
    assert [t.get_text() for t in above.get_legend().get_texts()] == ["hold", "average"]
    for test, line, loss, colour in zip(
        tests.values(), above.lines, below.lines, COLOURS, strict=False
    ):
        assert line.get_color() == loss.get_color() == colour
        assert np.allclose(line.get_ydata(), test.equity[0])
        assert -loss.get_ydata().min() == pytest.approx(test.drawdown().item())
        assert line.get_xdata().tolist() == list(range(9, 60))


def test_several_paths_are_a_fan() -> None:
    market = make_heston_market(HestonParams(), 5, 60, seed=1)
    test = backtest(BuyAndHold(), market, warmup=10)
    above, _ = equity_figure({"hold": test}).axes
    assert len(above.lines) == 1 and len(above.collections) == 2
    assert np.allclose(above.lines[0].get_ydata(), test.equity.quantile(0.5, dim=0))


def test_reliability_is_drawn_where_there_were_decisions() -> None:
    rng = np.random.default_rng(1)
    stated = 0.5 + 0.5 * rng.random(400)
    result = reliability(stated, rng.random(400) < stated, 4, block=1, seed=0)
    above, below = reliability_figure({"model": result}).axes
    x, y = above.lines[1].get_data()
    assert x.tolist() == result.stated[2:].tolist() and y.tolist() == result.frequency[2:].tolist()
    (band,) = above.collections[0].get_segments()[:1]
    assert band[:, 1].tolist() == pytest.approx([result.low[2], result.high[2]])
    assert below.patches[0].get_data().values.tolist() == result.count.tolist()


def test_more_than_there_are_colours_is_refused() -> None:
    with pytest.raises(ValueError, match="^backtests must be 1 to 7, one a colour, got 0"):
        equity_figure({})
    with pytest.raises(ValueError, match="^results must be 1 to 1, one a colour, got 2"):
        reliability_figure({"one": None, "other": None}, ("black",))
