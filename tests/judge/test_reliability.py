"""Reliability against numbers by hand and forecasters whose honesty is known."""

import numpy as np
import pytest
from scipy import stats

from mambadream_lite.judge import Reliability, reliability

STATED = np.array([0.1, 0.3, 0.2, 0.2, 0.7, 0.9, 0.8, 1.0])
CAME = np.array([0, 1, 0, 0, 1, 1, 0, 1])


def by_hand() -> Reliability:
    return reliability(STATED, CAME, 2, block=1, seed=0)


def total(r: Reliability) -> float:
    inside = r.within_variance - r.within_covariance
    return r.reliability - r.resolution + r.uncertainty + inside


def test_numbers_by_hand() -> None:
    """Bins [0, 0.5) and [0.5, 1] of four decisions each."""
    r = by_hand()
    assert r.count.tolist() == [4, 4] and r.edges.tolist() == [0, 0.5, 1]
    assert r.stated == pytest.approx([0.2, 0.85]) and r.frequency == pytest.approx([0.25, 0.75])
    squares = 0.01 + 0.49 + 0.04 + 0.04 + 0.09 + 0.01 + 0.64 + 0.0
    assert r.brier == pytest.approx(squares / 8)
    assert r.reliability == pytest.approx((4 * 0.05**2 + 4 * 0.1**2) / 8)
    assert r.resolution == pytest.approx(0.25**2)
    assert r.uncertainty == pytest.approx(0.25)
    apart = [-0.1, 0.1, 0.0, 0.0, -0.15, 0.05, -0.05, 0.15]
    came = [-0.25, 0.75, -0.25, -0.25, 0.25, 0.25, -0.75, 0.25]
    assert r.within_variance == pytest.approx(np.square(apart).mean())
    assert r.within_covariance == pytest.approx(2 * np.dot(apart, came) / 8)
    assert total(r) == pytest.approx(r.brier)


@pytest.mark.parametrize("bins", [1, 3, 10, np.array([0, 0.05, 0.5, 1.0])])
def test_the_parts_add_up_to_the_score(bins) -> None:
    rng = np.random.default_rng(1)
    stated = rng.beta(0.5, 0.5, 500)
    r = reliability(stated, rng.random(500) < stated**2, bins, block=10, seed=0, n_boot=10)
    assert total(r) == pytest.approx(r.brier, abs=1e-12)
    assert r.count.sum() == 500


def test_murphys_three_parts_suffice_where_a_bin_has_one_probability() -> None:
    rng = np.random.default_rng(2)
    stated = rng.choice([0.15, 0.55, 0.85], 300)
    r = reliability(stated, rng.random(300) < stated, 10, block=1, seed=0, n_boot=10)
    assert r.reliability - r.resolution + r.uncertainty == pytest.approx(r.brier, abs=1e-12)
    assert np.isnan(r.stated[0]) and np.isnan(r.low[0]) and r.count[0] == 0
    assert r.calibrated.tolist()[:1] == [False]


def test_bands_of_a_calibrated_forecaster_hold_what_it_stated() -> None:
    """200 forecasters, 4 bins each, blocks of 5 decisions that come true or not together."""
    rng, inside = np.random.default_rng(3), 0
    for seed in range(200):
        stated = rng.random(300).repeat(5)
        came = rng.random(300).repeat(5) < stated
        inside += reliability(stated, came, 4, block=5, seed=seed, n_boot=500).calibrated.sum()
    assert inside / 800 == pytest.approx(0.95, abs=0.03)  # its standard error is 0.008


def test_bands_of_single_decisions_are_too_narrow_for_blocks() -> None:
    rng, inside = np.random.default_rng(4), 0
    for seed in range(100):
        stated = rng.random(300).repeat(5)
        came = rng.random(300).repeat(5) < stated
        inside += reliability(stated, came, 4, block=1, seed=seed, n_boot=100).calibrated.sum()
    assert inside / 400 < 0.75


def test_ids_and_a_length_are_two_ways_to_say_the_same() -> None:
    rng = np.random.default_rng(5)
    stated = rng.random(400)
    came = rng.random(400) < stated
    ids = np.array([f"day {i // 20:02d}" for i in range(400)])
    one, other = (reliability(stated, came, block=b, seed=1) for b in (20, ids))
    np.testing.assert_array_equal(one.low, other.low)
    np.testing.assert_array_equal(one.high, other.high)


def test_the_overconfident_are_caught() -> None:
    """Log odds stated twice too large: extremes come less often than said; order is kept."""
    rng = np.random.default_rng(6)
    truth = rng.beta(2, 2, 4000)
    came = rng.random(4000) < truth
    said = truth**2 / (truth**2 + (1 - truth) ** 2)
    bold, honest = (reliability(p, came, 5, block=4, seed=0) for p in (said, truth))
    assert honest.calibrated.all()
    assert not bold.calibrated[[0, 4]].any()
    assert bold.stated[4] > bold.high[4] and bold.stated[0] < bold.low[0]
    assert bold.reliability > 20 * honest.reliability and bold.brier > honest.brier


def test_a_bin_in_which_nothing_came_is_not_certain() -> None:
    """0 of 20 at 5 %: the exact upper end is 1 - 0.025^(1 / 20)."""
    r = reliability(np.full(20, 0.05), np.zeros(20), 2, block=1, seed=0)
    assert (r.low[0], r.high[0]) == pytest.approx((0.0, 1 - 0.025 ** (1 / 20)))
    sure = reliability(np.full(20, 0.95), np.ones(20), 2, block=1, seed=0)
    assert (sure.low[1], sure.high[1]) == pytest.approx((0.025 ** (1 / 20), 1.0))


def test_bands_of_independent_decisions_are_binomial() -> None:
    rng = np.random.default_rng(7)
    stated = np.full(2000, 0.3)
    r = reliability(stated, rng.random(2000) < stated, 1, block=1, seed=0)
    exact = stats.binomtest(round(r.frequency[0] * 2000), 2000).proportion_ci(method="exact")
    assert (r.low[0], r.high[0]) == pytest.approx((exact.low, exact.high), abs=3e-3)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"stated": STATED + 0.1}, r"^stated must lie in \[0, 1\], got 1.1"),
        ({"stated": STATED[1:]}, r"^stated and came must both be \(N,\), got \(7,\) and \(8,\)"),
        ({"came": CAME + 1}, "^came must be 0 or 1, got 2"),
        ({"bins": 0}, "^bins must be at least 1"),
        ({"bins": np.array([0, 0.7, 0.5, 1])}, "^bins must be at least 1, or edges ascending"),
        ({"block": 2}, "^block leaves 4 blocks of 8 decisions"),
        ({"block": 0}, "^block must be at least 1 decision, got 0"),
        ({"block": np.arange(7)}, r"^block must be a length or ids \(8,\), got shape \(7,\)"),
    ],
)
def test_what_cannot_be_judged_is_refused(change: dict, why: str) -> None:
    terms = {"stated": STATED, "came": CAME, "bins": 2, "block": 1}
    with pytest.raises(ValueError, match=why):
        reliability(**{**terms, **change}, seed=0)
