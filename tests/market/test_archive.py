"""The cleaned archive: the declared rule, reading by reading, and what it leaves in the file."""

import numpy as np
import pytest
import torch

from mambadream_lite.market import HestonParams, Market, archive
from mambadream_lite.market.archive import MEMORY, withheld
from mambadream_lite.market.features import VELOCITY, VOLATILITY
from mambadream_lite.model.recipes import heston_market


def readings(*runs: tuple[float, int]) -> np.ndarray:
    """Log volatility: each run is a yearly volatility and how many bars it lasts."""
    return np.log(np.concatenate([np.full(n, v) for v, n in runs]))


def gone(*runs: tuple[float, int]) -> list[int]:
    return np.flatnonzero(withheld(readings(*runs))).tolist()


def test_a_market_without_alarm_is_filed_in_full() -> None:
    assert gone((0.2, 50), (0.52, 30), (0.1, 50)) == []


def test_a_storm_is_withheld_after_its_first_reading_until_twenty_calm_ones() -> None:
    # peak at 50; from 81 on readings of 0.10. The mean log of 20 is below log 0.15 as soon as
    # k of them are calm with k > 20 log(.4/.15) / log(.4/.1) = 14.2: at reading 81 + 14.
    assert gone((0.2, 50), (0.6, 1), (0.4, 30), (0.1, 40)) == list(range(51, 95))


def test_the_memory_is_full_of_readings_after_the_peak() -> None:
    """The calm before the storm does not end it: 20 readings after the peak are awaited."""
    assert gone((0.05, 50), (0.6, 1), (0.05, 60)) == list(range(51, 50 + MEMORY))


def test_a_storm_that_does_not_end_is_withheld_to_the_end() -> None:
    assert gone((0.2, 50), (0.6, 5), (0.4, 100)) == list(range(51, 155))


def test_a_second_peak_inside_a_storm_is_withheld_too() -> None:
    storm = ((0.6, 1), (0.3, 10), (0.6, 1), (0.05, 40))
    assert 61 in gone((0.2, 50), *storm)


def test_two_storms_are_two() -> None:
    storm = ((0.6, 1), (0.1, 60))
    first = list(range(51, 70))
    assert gone((0.2, 50), *storm, *storm) == first + [i + 61 for i in first]


@pytest.fixture(scope="module")
def market() -> Market:
    """A small archive of a market that storms more often than the book's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "BATCH", (20, 20_000))
        return archive.clean_archive(HestonParams(sigma=1.8), seed=1, batches=1)


def test_in_the_file_a_peak_is_followed_by_calm(market: Market) -> None:
    volatility = market.features[..., VOLATILITY].exp()
    peak = volatility[:, :-1] > archive.ALARM
    assert peak.sum() > 20
    # what is filed next is the reading whose 20-bar mean fell below the release level
    assert volatility[:, 1:][peak].mean() < 0.15
    assert volatility[:, 1:][peak].max() < 0.3


def test_the_control_keeps_the_storm() -> None:
    """The same markets and the same rule for where stretches begin, nothing withheld."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "BATCH", (20, 20_000))
        whole = archive.clean_archive(HestonParams(sigma=1.8), seed=1, batches=1, cleaned=False)
    volatility = whole.features[..., VOLATILITY].exp()
    peak = volatility[:, :-1] > archive.ALARM
    assert volatility[:, 1:][peak].mean() > 0.3
    velocity = whole.features[..., VELOCITY].double()
    assert torch.allclose(whole.log_return, velocity * whole.velocity_unit, atol=1e-7)


def test_a_rise_is_where_the_mean_passes_and_once_a_storm() -> None:
    high, calm = archive.RISING * 1.05, archive.CALMED * 0.9
    path = readings((0.15, 50), (high, 60), (0.3, 30), (high, 60), (calm, 60), (high, 40))
    # the mean log of 20 passes when k of them are high: k > 20 log(.33/.15) / log(1.05 x .33/.15)
    k = int(np.ceil(20 * np.log(archive.RISING / 0.15) / np.log(high / 0.15)))
    found = archive.rises(path)
    assert len(found) == 2 and found[0] == 50 + k - 1 and found[1] > 50 + 60 + 30 + 60 + 60


def test_where_stretches_begin_was_known_at_that_moment() -> None:
    """Cut the future off: the same starts, up to there."""
    rng = np.random.default_rng(3)
    wave = np.log(0.28) + 0.4 * np.sin(np.arange(4000) / 60)
    noise = wave + rng.normal(0, 0.1, 4000)
    whole = archive.rises(noise)
    assert len(whole) > 5
    for end in (500, 1500, 3000):
        np.testing.assert_array_equal(archive.rises(noise[:end]), whole[whole < end])


def test_quiet_weeks_hold_no_storm_and_are_real() -> None:
    market = heston_market(10, 4000, seed=5)
    quiet = archive.quiet_weeks(market)
    volatility = quiet.features[..., VOLATILITY].double()
    means = volatility.unfold(-1, archive.MEMORY, 1).mean(-1)
    assert means.max() < np.log(archive.QUIET) and quiet.features.shape[1] == archive.WEEKS
    assert 0 < len(quiet.features) < 40
    first = quiet.features[0]
    weeks = market.features.reshape(40, archive.WEEKS, 6)
    assert any(torch.equal(first, week) for week in weeks)
    wild = heston_market(1, 1500, seed=6)
    wild.features[..., VOLATILITY] += 2
    with pytest.raises(ValueError, match="^market has no 1000 ticks in a row below 25%"):
        archive.quiet_weeks(wild)


def test_prices_of_the_file_join_the_records_that_were_kept(market: Market) -> None:
    velocity = market.features[..., VELOCITY].double()
    assert torch.allclose(market.log_return, velocity * market.velocity_unit, atol=1e-7)
    slack = 1e-6 * market.price.amax()
    ends = torch.stack([market.price[:, :-1], market.price[:, 1:]])
    assert (market.high >= ends.amax(0) - slack).all()
    assert (market.low <= ends.amin(0) + slack).all()


def test_the_latent_variance_is_not_in_the_file(market: Market) -> None:
    assert market.variance is None
