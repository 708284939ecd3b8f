"""The study of chapter 11, in small: choices come from the past, rows say what happened."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mambadream_lite.agent import replay
from mambadream_lite.dream import foreseen
from mambadream_lite.judge import verdict
from mambadream_lite.market import Account
from mambadream_lite.model import Ensemble


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch) -> None:
    """The shipped model on half a year of real days, a few futures, one round of training."""
    monkeypatch.setattr(verdict, "WORK", tmp_path)
    split = ("2002-01-01", "2006-11-15", "2007-01-01", "2007-07-01")
    monkeypatch.setattr(verdict, "SP500_SPLIT", split)
    monkeypatch.setattr(verdict, "CRASH", ("2007-02-01", "2007-04-01"))
    monkeypatch.setattr(verdict, "YEAR", 100)
    for name, value in {
        "ROUNDS": 1,
        "N_FUTURES": 4,
        "HORIZONS": (1, 2),
        "DREAMT": 5,
        "CONTEXT": 60,
    }.items():
        monkeypatch.setattr(verdict, name, value)
    monkeypatch.setattr(verdict, "FRACTIONS", (0.5,))
    twins = Ensemble([verdict.world_model(), verdict.world_model()]).eval()
    monkeypatch.setattr(verdict, "ensemble", lambda: twins)
    cached = (verdict.sp500, verdict.horizon_of)
    for each in cached:
        each.cache_clear()
    yield
    for each in cached:
        each.cache_clear()


def test_the_tuned_average_is_the_one_that_a_replay_prefers() -> None:
    """The one-pass sum and the account's own arithmetic rank all candidates alike at the top."""
    past, terms = verdict.before_the_test(), verdict.account(10.0)
    chosen = verdict.best_average(past, terms)
    nothing = torch.zeros(1, past.features.shape[1] - 1)
    path = foreseen(past, nothing, nothing + 1, 1)
    ends = {
        (w, side): replay(verdict.MovingAverageRule(w, side), path, Account(terms)).equity[0, -1]
        for w in verdict.WINDOWS
        for side in (1.0, -1.0)
    }
    assert (chosen.window, chosen.leverage) == max(ends, key=ends.__getitem__)


@pytest.mark.parametrize("name", ["GARCH moments", "PPO", "planner", "planner, five seeds"])
def test_every_policy_has_its_row(name: str) -> None:
    row = verdict.row(name, 2.0)
    assert len(row["weekly_equity"]) == row["days"] // 5 + 1
    low, value, high = row["growth"][1], row["growth"][0], row["growth"][2]
    assert low <= value <= high
    assert len(row["crash_equity"]) == len(row["crash_leverage"]) + 1 > 30
    assert len(row["growth_over_holding"]) == 3


def test_a_rule_that_is_tuned_again_sees_the_past_only(monkeypatch) -> None:
    ends = []

    def spy(past, terms):
        ends.append(past.time[-1])
        return verdict.MovingAverageRule(10)

    monkeypatch.setattr(verdict, "best_average", spy)
    verdict.run("moving average, tuned each year", 2.0)
    assert ends[0] < np.datetime64("2007-01-01") <= ends[1] < np.datetime64("2007-06-01")
    assert len(ends) == 2


def test_the_best_of_many_is_less_news_than_one_alone() -> None:
    one = {"sharpe_a_day": 0.06, "skew": -0.5, "kurtosis": 9.0, "days": 3000}
    none = one | {"sharpe_a_day": 0.0}
    assert verdict.news([one, none])[0] < verdict.news([one] * 2)[0]
