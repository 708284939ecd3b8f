"""Stylised facts of series whose facts are known."""

import numpy as np
import pytest
from scipy.signal import lfilter

from mambadream_lite.judge import stylised_facts
from mambadream_lite.judge.stylised import (
    Fact,
    aggregational_gaussianity,
    excess_kurtosis,
    hill_index,
    leverage_effect,
)

N = 8000


def gaussian(n: int = N, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n)


def test_a_gaussian_has_no_excess_kurtosis_and_a_uniform_has_less() -> None:
    assert abs(excess_kurtosis(gaussian())) < 4 * (24 / N) ** 0.5
    uniform = np.random.default_rng(2).random(N)
    assert excess_kurtosis(uniform) == pytest.approx(-1.2, abs=0.1)


@pytest.mark.parametrize("index", [2.0, 3.0, 5.0])
def test_hill_finds_the_exponent_of_a_pareto_tail(index: float) -> None:
    r = np.random.default_rng(3).pareto(index, 40_000) + 1
    k = 0.05 * len(r)
    assert hill_index(r) == pytest.approx(index, abs=4 * index / k**0.5)


def test_hill_index_of_student_t_is_near_its_degrees_of_freedom() -> None:
    r = np.random.default_rng(4).standard_t(3, 40_000)
    assert 2.5 < hill_index(r) < 3.2  # biased down a little: the tail is Pareto only far out


def test_hill_index_does_not_depend_on_the_unit() -> None:
    r = gaussian()
    assert hill_index(1e-4 * r) == pytest.approx(hill_index(r), rel=1e-9)


@pytest.mark.parametrize("persistence", [0.5, -0.5])
def test_the_autocorrelation_of_an_ar1_has_its_sign_and_size(persistence: float) -> None:
    fact = stylised_facts(lfilter([1], [1, -persistence], gaussian()), seed=0)["ACF r, lag 1"]
    assert fact.value == pytest.approx(persistence, abs=0.05)
    assert fact.low < persistence < fact.high


def test_falls_that_raise_volatility_are_a_negative_leverage_effect() -> None:
    z = gaussian()
    r = z.copy()
    r[1:] *= np.exp(-0.5 * np.sign(z[:-1]))
    assert leverage_effect(r) < -0.2
    assert leverage_effect(-r) > 0.2
    assert abs(leverage_effect(z)) < 4 / N**0.5


def test_clustered_volatility_shows_in_absolute_returns_alone() -> None:
    level = lfilter([1], [1, -0.99], 0.1 * gaussian(seed=5))
    facts = stylised_facts(np.exp(level) * gaussian(seed=6), seed=0)
    assert facts["ACF |r|, lag 1"].low > 0.05
    assert facts["ACF |r|, lag 10"].value > facts["ACF |r|, lag 100"].value
    assert facts["ACF r, lag 1"].low < 0 < facts["ACF r, lag 1"].high


def test_intervals_of_gaussian_noise_hold_the_truth() -> None:
    truth = {name: 0.0 for name in stylised_facts(gaussian(), seed=0) if "Hill" not in name}
    missed = 0
    for seed in range(4):
        facts = stylised_facts(gaussian(seed=10 + seed), seed=seed)
        missed += sum(not facts[n].low <= value <= facts[n].high for n, value in truth.items())
    assert missed <= 5  # of 28 at 95 %: 1.4 are expected


def test_a_seed_fixes_the_intervals() -> None:
    first, again, other = (stylised_facts(gaussian(), seed=s) for s in (0, 0, 1))
    assert first == again
    assert first["Hill index"].value == other["Hill index"].value
    assert first["Hill index"].low != other["Hill index"].low


def test_a_fact_prints_its_interval() -> None:
    assert str(Fact(2.0, 1.234, 3.0)) == "2.00 [1.23, 3.00]"


@pytest.mark.parametrize(
    "r", [np.zeros((2, 2000)), gaussian(999), np.full(2000, np.nan)], ids=["2d", "short", "nan"]
)
def test_a_series_that_cannot_be_judged_is_refused(r: np.ndarray) -> None:
    with pytest.raises(
        ValueError, match=r"^log_return must be finite with shape \(T,\), T >= 1000"
    ):
        stylised_facts(r, seed=0)


@pytest.mark.parametrize("n", [5, 20])
def test_sums_of_independent_returns_lose_their_kurtosis_as_one_over_n(n: int) -> None:
    """Cumulants add: of n independent draws the excess kurtosis is a single one's over n."""
    r = np.random.default_rng(9).gamma(0.5, size=400_000)  # excess kurtosis 6 / 0.5
    assert aggregational_gaussianity(r, n) == pytest.approx(12 / n, rel=0.1)
    assert aggregational_gaussianity(r, 1) == pytest.approx(excess_kurtosis(r))


def test_clusters_keep_sums_from_becoming_gaussian() -> None:
    level = lfilter([1], [1, -0.99], 0.1 * gaussian(seed=11))
    r = np.exp(level) * gaussian(seed=12)
    assert aggregational_gaussianity(r, 20) > 3 * excess_kurtosis(r) / 20
