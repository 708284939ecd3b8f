"""The drift of dreams, measured on "dreams" whose drift is known."""

import dataclasses

import numpy as np
import pytest
import torch

from mambadream_lite.judge.drift import compare, restarted_truths, volatility_drift
from mambadream_lite.market.features import VOLATILITY
from mambadream_lite.model import MambaWorldModel
from mambadream_lite.model.recipes import PARAMS, heston_market

HORIZONS = (1, 40, 200)


@pytest.fixture(scope="module")
def context():
    return heston_market(400, 20, seed=81)


@pytest.fixture(scope="module")
def truths(context) -> np.ndarray:
    return restarted_truths(context, PARAMS, HORIZONS[-1], seed=82)


def test_a_truth_does_not_drift(context, truths) -> None:
    another = restarted_truths(context, PARAMS, HORIZONS[-1], seed=500, n_truths=1)[0]
    for row in compare(another, truths, HORIZONS):
        assert row.ks < 1.3 * row.band
        assert abs(row.bias) < 0.1 and abs(row.spread - 1) < 0.12


@pytest.mark.parametrize(("shift", "stretch"), [(0.2, 1.0), (0.0, 0.6)])
def test_a_shift_and_a_stretch_are_found(context, truths, shift: float, stretch: float) -> None:
    another = restarted_truths(context, PARAMS, HORIZONS[-1], seed=500, n_truths=1)[0]
    drifted = another.mean(0) + stretch * (another - another.mean(0)) + shift
    for row in compare(drifted, truths, HORIZONS):
        assert row.ks > 1.3 * row.band
        assert row.bias == pytest.approx(shift, abs=0.1)
        assert row.spread == pytest.approx(stretch, abs=0.12)


def test_truths_start_from_the_variance_of_each_context(context, truths) -> None:
    latent = 0.5 * np.log(context.variance[:, -1].numpy())
    first = truths[:, :, 0].mean(0)
    assert np.corrcoef(latent, first)[0, 1] > 0.95
    last = truths[:, :, -1].mean(0)
    assert np.corrcoef(latent, last)[0, 1] < np.corrcoef(latent, first)[0, 1]


def test_a_model_that_expects_storms_dreams_them(context) -> None:
    torch.manual_seed(0)
    model = MambaWorldModel(d_model=16, d_state=4)
    model.fit_scaler(context)
    model.feature_mean[VOLATILITY] += 0.5
    (row,) = volatility_drift(model.eval(), context, PARAMS, horizons=(10,), seed=3)
    assert row.horizon == 10 and row.ks > 3 * row.band
    assert row.bias == pytest.approx(0.5, abs=0.15)


def test_a_real_market_cannot_be_started_again(context) -> None:
    blind = dataclasses.replace(context, variance=None)
    with pytest.raises(ValueError, match="latent variance"):
        restarted_truths(blind, PARAMS, 10, seed=0)
