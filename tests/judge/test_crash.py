"""The study of a crash, in small: what is known when, and what the numbers of a row mean."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from arch.data import sp500 as bundled

from mambadream_lite.agent import PPO, BuyAndHold, Flat, MovingAverageRule, replay
from mambadream_lite.dream import watch
from mambadream_lite.judge import crash
from mambadream_lite.market import Market
from mambadream_lite.market.features import VOLATILITY
from mambadream_lite.market.worlds import make_daily_worlds
from mambadream_lite.model import MambaWorldModel

COST = 2e-4  # of one unit of notional, by the terms of chapter 10


@pytest.fixture(scope="module")
def worlds() -> Market:
    return make_daily_worlds(6, 700, seed=77)


@pytest.fixture
def small(monkeypatch, worlds: Market) -> MambaWorldModel:
    """A tiny untrained model, few worlds and dreams, and no twelve years to trade."""
    torch.manual_seed(0)
    model = MambaWorldModel(d_model=8, d_state=2, n_components=2)
    torch.nn.init.normal_(model.head.skip.weight, std=0.02)
    model.fit_scaler(crash.sp500().between("1999-01-01", "2005-01-01"))
    model = model.eval().requires_grad_(False)
    values = {"ROUNDS": 1, "N_STARTS": 4, "N_DREAMS": 2, "HORIZON": 6, "WINDOWS": (5,)}
    values["STRETCHES"] = {"crash": crash.STRETCHES["crash"]}
    for name, value in values.items():
        monkeypatch.setattr(crash, name, value)
    monkeypatch.setattr(crash, "world_model", lambda: model)
    monkeypatch.setattr(crash, "make_daily_worlds", lambda n, days, seed: worlds)
    for cached in (crash.trials, crash.moving_average):
        cached.cache_clear()
    yield model
    for cached in (crash.trials, crash.moving_average):
        cached.cache_clear()


def test_contexts_end_on_their_days_and_before_the_test() -> None:
    sp500 = crash.sp500()
    day_of = {tuple(f.tolist()): d for f, d in zip(sp500.features[0], sp500.time, strict=True)}
    for name, (first, stop) in crash.STARTS.items():
        seen = crash.contexts(first, stop)
        last = np.array([day_of[tuple(f.tolist())] for f in seen.features[:, -1]])
        dates = bundled.load().loc[first:stop].index.to_numpy().astype("datetime64[D]")
        assert (last == dates[dates < np.datetime64(stop)]).all()
        assert seen.features.shape[1] == crash.WARMUP
        if name != "hindsight":
            assert last.max() < np.datetime64(crash.STRETCHES["crash"][0])
    assert len(crash.contexts(*crash.STARTS["calm"]).features) == 168
    assert len(crash.contexts(*crash.STARTS["turmoil"]).features) == 168


def test_a_storm_is_chosen_by_what_its_first_day_knows(worlds: Market) -> None:
    """Another future after each first reading changes neither the paths nor their days."""
    found = crash.storms(worlds)
    reading = found.features[..., VOLATILITY].exp()
    assert reading.shape[1] == crash.WARMUP + crash.AFTER and len(reading) > 3
    assert (reading[:, crash.WARMUP - 1] > crash.PEAK).all()
    other = worlds.features.clone()
    for i, path in enumerate(worlds.features[..., VOLATILITY].exp()):
        above = [t for t in range(crash.WARMUP, path.numel()) if path[t] > crash.PEAK]
        if above:
            other[i, above[0] + 1 :] = other[i, above[0] + 1 :].flip(0)
    again = crash.storms(replace(worlds, features=other))
    assert torch.equal(again.features[:, : crash.WARMUP], found.features[:, : crash.WARMUP])
    assert torch.equal(again.price, found.price)


def test_the_rule_is_chosen_before_2007(small, monkeypatch) -> None:
    chosen = crash.moving_average()
    known = crash.sp500().between("1999-01-01", "2007-01-01")
    monkeypatch.setattr(crash, "sp500", lambda: known)
    crash.moving_average.cache_clear()
    assert crash.moving_average() == chosen


def test_a_rule_remembers_the_days_before(small) -> None:
    """Begun ten days late with a memory it holds what the one that began early holds."""
    market, rule = crash.stretch(*crash.STRETCHES["crash"]), MovingAverageRule(20)
    early = replay(rule, watch(small, market, crash.WARMUP - 30), crash.account())
    path = watch(small, market, crash.WARMUP)
    late = crash.lived(rule, crash.Trial(path, market.price[:, : crash.WARMUP].log()))
    assert torch.equal(late.leverage, early.leverage[:, 30:])
    assert (late.leverage[:, 0] != 0).all()


def test_holding_pays_once_and_falls_with_the_index(small) -> None:
    close = bundled.load()["Close"]
    days = close.loc["2008-08-29":"2008-12-31"].to_numpy()
    trial = crash.trials(0)["crash"]
    held = crash.outcome(crash.lived(BuyAndHold(), trial))
    assert held["log_growth"] == pytest.approx(np.log((1 - COST) * days[-1] / days[0]), abs=1e-5)
    worst = max(1 - days[j] / days[i] for i in range(len(days)) for j in range(i, len(days)))
    assert held["drawdown"] == pytest.approx(worst, abs=1e-3)  # the cost of the first day apart
    assert held["bp_a_day"] == pytest.approx(held["log_growth"] * 1e4 / 85, abs=1e-3)
    assert crash.outcome(crash.lived(Flat(), trial))["log_growth"] == 0
    told = crash.facts(trial.path)
    assert told["came"] == pytest.approx(1e4 * (days[1:] / days[:-1] - 1).mean(), abs=1e-3)


def test_a_ruined_account_counts_as_a_thousandth() -> None:
    class Episode:
        equity = torch.tensor([[1.0, 2.0, 0.0], [1.0, 1.5, 1.2]])
        ruined = torch.tensor([[False, False, True], [False, False, False]])
        leverage = torch.tensor([[5.0, 5.0], [-1.0, 1.0]])

    found = crash.outcome(Episode)
    assert found["log_growth"] == pytest.approx((np.log(1e-3) + np.log(1.2)) / 2, abs=1e-4)
    assert (found["ruined"], found["leverage"], found["leverage_abs"]) == (0.5, 2.5, 3.0)
    assert found["drawdown"] == pytest.approx((1 + 0.2) / 2)


@pytest.mark.parametrize(("starts", "pay"), crash.AGENTS[-2:])
def test_an_agent_is_trained_once_and_its_seed_fixes_its_row(
    small, tmp_path: Path, monkeypatch, starts: str, pay: str
) -> None:
    task = {"kind": "agent", "name": starts, "pay": pay, "seed": 1}
    row = crash.row(task, tmp_path / "one")
    assert row == crash.row(task, tmp_path / "two")
    monkeypatch.setattr(crash, "dream_and_train", lambda *a, **k: pytest.fail("trained again"))
    assert row == crash.row(task, tmp_path / "one")
    assert crash.config(pay).expected_reward is (pay == "expected")
    assert set(row) == set(crash.trials(1)) and row["crash"]["paths"] == 1


def test_a_dream_without_a_price_is_left_out(small) -> None:
    path = crash.trials(0)["dreams of turmoil"].path
    high, n = path.high.clone(), len(path)
    high[2, 3] = torch.inf
    broken = replace(path, high=high)
    kept = crash.sound(broken)
    assert kept.sum() == n - 1 and not kept[2]
    trader = crash.Dreamer(small, crash.account(), crash.config("expected"), seed=1)
    same = crash.Dreamer(small, crash.account(), crash.config("expected"), seed=1)
    assert trader.learn(broken) == PPO.learn(same, crash.part(path, kept))
    with pytest.raises(ValueError, match="high must be finite"):
        PPO.learn(same, broken)


def test_rows_are_wanted_for_every_seed() -> None:
    wanted = crash.tasks(2)
    assert len(wanted) == 2 * (1 + len(crash.RULES) + len(crash.AGENTS))
    assert len({str(t) for t in wanted}) == len(wanted)
