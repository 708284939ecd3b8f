"""Noise belongs to the dream; room is checked before anything is dreamt."""

import os

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from mambadream_lite.dream import dream
from mambadream_lite.dream import noise as module
from mambadream_lite.dream.noise import BLOCK, Noise, check_room
from mambadream_lite.market import Market

CPU = torch.device("cpu")


def test_rows_are_the_same_however_they_are_asked_for() -> None:
    whole = Noise(5, 7, 6, CPU).rows(0, BLOCK + 40)
    again = Noise(5, 7, 6, CPU)
    for start, count in ((0, 1), (3, 7), (BLOCK - 2, 5), (BLOCK + 39, 1), (10, BLOCK)):
        for part, all_rows in zip(again.rows(start, count), whole, strict=True):
            assert torch.equal(part, all_rows[:, start : start + count])


def test_draws_have_their_laws() -> None:
    u, normal, extremes = Noise(1, 40, 6, CPU).rows(0, 2 * BLOCK)
    assert kstest(u.flatten().numpy(), "uniform").pvalue > 0.001
    assert kstest(normal.flatten().numpy(), "norm").pvalue > 0.001
    assert extremes.min() > 0 and kstest(extremes.flatten().numpy(), "uniform").pvalue > 0.001
    blocks = normal.reshape(40, 2, BLOCK, 6)
    assert abs(np.corrcoef(blocks[:, 0].ravel(), blocks[:, 1].ravel())[0, 1]) < 0.01


def test_a_generator_gives_other_dreams_each_time_and_the_same_again() -> None:
    first, second = (torch.Generator().manual_seed(3) for _ in range(2))
    seeds = [Noise.seeded(first, 2, 6, CPU).seed for _ in range(3)]
    assert len(set(seeds)) == 3
    assert seeds == [Noise.seeded(second, 2, 6, CPU).seed for _ in range(3)]


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_dreams_do_not_depend_on_the_chunk(model, market: Market, chunk: int) -> None:
    settings = {"n_dreams": 50, "horizon": 12}

    def go(chunk):
        generator = torch.Generator().manual_seed(1)
        return dream(model, market, **settings, generator=generator, chunk=chunk)

    known, cut = go(None), go(chunk)
    for name in known.__dataclass_fields__:
        assert torch.equal(getattr(known, name), getattr(cut, name)), name


def test_more_dreams_than_memory_are_refused_with_what_fits(model, market, monkeypatch) -> None:
    pages = {"SC_AVPHYS_PAGES": 2500, "SC_PAGE_SIZE": 4000}  # 10 MB
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    with pytest.raises(MemoryError, match="1,403 fit") as error:
        dream(model, market, n_dreams=1000, horizon=100, generator=torch.Generator())
    assert "3,000 dreams of 100 ticks need 0.0 GB" in str(error.value)
    fit = int(0.8 * 1e7 // (100 * module.BYTES_A_TICK))
    check_room(fit, 100, CPU)
    with pytest.raises(MemoryError):
        check_room(fit + 1, 100, CPU)
