"""Quotes of the volatility contract: the same on a dreamt path as on the market it stands for."""

import pytest
import torch

from mambadream_lite.dream import dream, quote, watch
from mambadream_lite.market import Market
from mambadream_lite.model.recipes import CONTRACT

WARMUP = 20


def test_a_watched_market_is_quoted_as_the_contract_quotes_it(model, market: Market) -> None:
    before = market.features[:, :WARMUP].double()
    path = quote(watch(model, market, WARMUP), CONTRACT, CONTRACT.strikes(before)[:, -1])
    whole = CONTRACT.strikes(market.features.double())
    torch.testing.assert_close(path.strike, whole[:, WARMUP:])
    realised = (2 * market.features[:, WARMUP:, 1].double()).exp()
    by_hand = CONTRACT.size * ((realised / whole[:, WARMUP:-1]).clamp(max=4.0) - 1)
    torch.testing.assert_close(path.payoff, by_hand)


def test_a_strike_is_known_before_its_tick(model, market: Market) -> None:
    seen = watch(model, market, WARMUP)
    strike = CONTRACT.strikes(market.features[:, :WARMUP])[:, -1]
    before = quote(seen, CONTRACT, strike).strike
    seen.features[:, 10:] += 0.5
    after = quote(seen, CONTRACT, strike).strike
    assert torch.equal(before[:, :11], after[:, :11])
    assert (before[:, 11:] != after[:, 11:]).all()


def test_dreams_of_a_context_share_its_strike(model, market: Market) -> None:
    generator = torch.Generator().manual_seed(1)
    strike = torch.tensor([0.02, 0.04, 0.09])
    dreams = dream(model, market, n_dreams=4, horizon=5, generator=generator)
    path = quote(dreams, CONTRACT, strike)
    assert path.strike[:, 0].tolist() == pytest.approx([0.02] * 4 + [0.04] * 4 + [0.09] * 4)
    assert path.payoff.shape == (12, 5)
    assert (path.payoff >= -CONTRACT.size).all() and (path.payoff <= 3 * CONTRACT.size).all()


@pytest.mark.parametrize(
    ("strike", "error"),
    [
        ([0.04, 0.04], r"^strike must divide the 3 paths evenly, got 2"),
        ([], r"^strike must divide the 3 paths evenly, got 0"),
        ([0.04, 0.0, 0.04], r"^strike must be above 0, got 0.0"),
        ([0.04, float("nan"), 0.04], r"^strike must be above 0, got nan"),
    ],
)
def test_impossible_strikes_are_refused(model, market: Market, strike, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        quote(watch(model, market, WARMUP), CONTRACT, torch.tensor(strike))
