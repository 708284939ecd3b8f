"""Likeness finds what a false market lacks, and finds nothing in a true one."""

import numpy as np
import pytest

from mambadream_lite.judge.realism import realism
from mambadream_lite.market import make_heston_market
from mambadream_lite.market.features import VELOCITY, VOLATILITY
from mambadream_lite.model.recipes import PARAMS, heston_market


@pytest.fixture(scope="module")
def truths() -> np.ndarray:
    v0 = heston_market(200, 1, seed=3).variance[:, -1].numpy()
    many = [make_heston_market(PARAMS, 200, 300, seed=50 + i, v0=v0) for i in range(21)]
    return np.stack([m.features.numpy() for m in many])


def verdict(dreams: np.ndarray, truths: np.ndarray, horizon: int = 300) -> dict[str, bool]:
    return {row.name: row.inside for row in realism(dreams, truths, horizon)}


@pytest.mark.parametrize("horizon", [50, 100, 300])
def test_a_truth_among_truths_is_one_of_them(truths, horizon: int) -> None:
    wrong = [name for name, inside in verdict(truths[0], truths[1:], horizon).items() if not inside]
    assert len(wrong) <= 1  # each is missed about once in ten


def test_lags_that_do_not_fit_are_left_out(truths) -> None:
    assert "ACF of |return|, lag 50" not in verdict(truths[0], truths[1:], 50)
    assert "ACF of |return|, lag 50" in verdict(truths[0], truths[1:], 300)


def test_constant_volatility_is_found(truths) -> None:
    flat = truths[0].copy()
    flat[..., VELOCITY] = np.random.default_rng(0).standard_normal(flat.shape[:2])
    found = verdict(flat, truths[1:])
    for name in (
        "kurtosis of returns",
        "leverage effect",
        "ACF of |return|, lag 10",
        "correlations",
    ):
        assert not found[name], name
    assert found["KS of volatility"]


def test_a_wrong_level_of_volatility_is_found(truths) -> None:
    high = truths[0].copy()
    high[..., VOLATILITY] += 0.3
    found = verdict(high, truths[1:])
    assert not found["KS of volatility"] and found["kurtosis of returns"]


def test_a_tick_shuffled_in_time_is_found(truths) -> None:
    shuffled = truths[0][:, np.random.default_rng(0).permutation(300)]
    found = verdict(shuffled, truths[1:])
    assert not found["leverage effect"] and found["kurtosis of returns"]


@pytest.mark.parametrize(("horizon", "n"), [(4, 20), (301, 20), (100, 2)])
def test_what_cannot_be_compared_is_refused(truths, horizon: int, n: int) -> None:
    with pytest.raises(ValueError, match="horizon must lie in|with R >= 3"):
        realism(truths[0], truths[1 : 1 + n], horizon)
