"""Days are scored where they are, and never by what comes after."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.distributions import StudentT

from mambadream_lite.judge.history import garch_scores, model_scores, over_garch
from mambadream_lite.market import Market, load_sp500
from mambadream_lite.model import MambaWorldModel


@pytest.fixture(scope="module")
def market() -> Market:
    return load_sp500()


@pytest.fixture(scope="module")
def garch(market: Market) -> torch.Tensor:
    return garch_scores(market)


@pytest.fixture(scope="module")
def model(market: Market) -> MambaWorldModel:
    torch.manual_seed(0)
    model = MambaWorldModel(d_model=8, d_state=2)
    model.fit_scaler(market.between("1999-01-01", "2007-01-01"))
    return model.eval()


def test_garch_beats_one_width_for_all_days(market: Market, garch: torch.Tensor) -> None:
    before, after = (
        market.between("1999-01-01", "2007-01-01"),
        market.time[1:] >= np.datetime64("2007-01-01"),
    )
    df, scale = 5.0, before.features[..., 0].std() * (3 / 5) ** 0.5
    flat = StudentT(df, 0.0, scale).log_prob(market.features[0, 1:, 0])
    assert garch.shape == flat.shape
    assert (garch - flat)[torch.from_numpy(after)].mean() > 0.1


def test_the_test_years_alone_are_compared(market: Market, garch, model) -> None:
    scores = model_scores(model, market) - garch
    years = (market.time[1:] >= np.datetime64("2007-01-01")) & (
        market.time[1:] < np.datetime64("2019-01-01")
    )
    n = years.sum() // 60 * 60
    known = scores[torch.from_numpy(years)][:n].mean().item()
    mean, error = over_garch(model, market, garch)
    assert mean == pytest.approx(known, abs=1e-12) and error > 0


def test_nothing_after_the_split_reaches_garch(market: Market, garch: torch.Tensor) -> None:
    features = market.features.clone()
    late = torch.from_numpy(market.time >= np.datetime64("2012-01-01"))
    features[:, late, 0] *= 2
    unit = market.velocity_unit
    log_price = torch.cat(
        [
            market.price[:, :1].log(),
            market.price[:, :1].log() + (features[..., 0].double() * unit).cumsum(1),
        ],
        1,
    )
    changed = dataclasses.replace(
        market,
        features=features,
        price=log_price.exp(),
        high=2e4 * market.high,
        low=market.low * 1e-4,
    )
    again = garch_scores(changed)
    early = ~late[1:]
    torch.testing.assert_close(again[early], garch[early], rtol=1e-3, atol=1e-3)
