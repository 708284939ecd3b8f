"""The cleaned archive: the declared rule, reading by reading, and what it leaves in the file."""

import numpy as np
import pytest
import torch

from mambadream_lite.market import HestonParams, Market, archive
from mambadream_lite.market.archive import MEMORY, withheld
from mambadream_lite.market.features import VELOCITY, VOLATILITY


def readings(*runs: tuple[float, int]) -> np.ndarray:
    """Log volatility: each run is a yearly volatility and how many bars it lasts."""
    return np.log(np.concatenate([np.full(n, v) for v, n in runs]))


def gone(*runs: tuple[float, int]) -> list[int]:
    return np.flatnonzero(withheld(readings(*runs))).tolist()


def test_a_market_without_alarm_is_filed_in_full() -> None:
    assert gone((0.2, 50), (0.55, 30), (0.1, 50)) == []


def test_a_storm_is_withheld_after_its_first_reading_until_twenty_calm_ones() -> None:
    # peak at 50; from 81 on readings of 0.10. The mean log of 20 is below log 0.125 as soon as
    # k of them are calm with k > 20 log(.4/.125) / log(.4/.1) = 16.8: at reading 81 + 16.
    assert gone((0.2, 50), (0.6, 1), (0.4, 30), (0.1, 40)) == list(range(51, 97))


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


def test_half_of_the_stretches_cross_a_storm(market: Market) -> None:
    crosses = (market.features[..., VOLATILITY].exp() > archive.ALARM).any(1)
    assert market.features.shape[1] == archive.WINDOW
    assert 0.5 <= crosses.double().mean() < 0.65


def test_prices_of_the_file_join_the_records_that_were_kept(market: Market) -> None:
    velocity = market.features[..., VELOCITY].double()
    assert torch.allclose(market.log_return, velocity * market.velocity_unit, atol=1e-7)
    slack = 1e-6 * market.price.amax()
    ends = torch.stack([market.price[:, :-1], market.price[:, 1:]])
    assert (market.high >= ends.amax(0) - slack).all()
    assert (market.low <= ends.amin(0) + slack).all()


def test_the_latent_variance_is_not_in_the_file(market: Market) -> None:
    assert market.variance is None
