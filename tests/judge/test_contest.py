"""The studies of chapters 10 and 11, in small."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mambadream_lite.judge import contest, planner_cure, planning
from mambadream_lite.market import Account
from mambadream_lite.model import Ensemble, MambaWorldModel
from mambadream_lite.model.recipes import heston_market


@pytest.fixture
def small(tmp_path: Path, monkeypatch) -> None:
    torch.manual_seed(0)
    model = MambaWorldModel(d_model=8, d_state=2, n_components=2)
    model.fit_scaler(heston_market(4, 200, 1))
    model = model.eval().requires_grad_(False)
    monkeypatch.setattr(contest, "world_model", lambda seed: model)
    monkeypatch.setattr(contest, "WORK", tmp_path)
    for name, value in {"WARMUP": 20, "PATHS": 4, "TICKS": 15, "N_FUTURES": 6}.items():
        monkeypatch.setattr(contest, name, value)
    monkeypatch.setattr(contest, "LEVELS", (-10.0, 0.0, 10.0))  # the optimum is solved for less
    for name, value in {
        "TUNE_PATHS": 3,
        "TUNE_TICKS": 8,
        "DREAMT": 4,
        "ROUNDS": 1,
        "STARTS": 4,
    }.items():
        monkeypatch.setattr(contest, name, value)
    market = heston_market(4, 35, 5)
    monkeypatch.setattr(contest, "arena", lambda *a: market)


@pytest.mark.parametrize(
    "kind", ["planner", "dreamer", "model moments", "moving average", "optimal", "buy and hold"]
)
def test_every_contestant_trades_every_path(small, kind: str) -> None:
    row = contest.row(kind, 0)
    assert len(row["paths"]) == 4
    assert row["utility"] == pytest.approx(np.mean(row["paths"]), abs=1e-3)
    assert row == contest.row(kind, 0)  # a seed fixes it


def test_horizons_are_judged_by_the_model_and_by_the_truth(small) -> None:
    row = contest.horizon_row(2, 0)
    assert set(row) == {"believed", "true", "leverage"}


def contest_rows(first: np.ndarray, second: np.ndarray) -> list[dict]:
    rows = [{"task": {"kind": "a", "seed": s}, "paths": p.tolist()} for s, p in enumerate(first)]
    return rows + [{"task": {"kind": "b", "seed": 0}, "paths": second.tolist()}]


def test_ratios_are_paired_over_paths_and_over_seeds() -> None:
    """Two contestants whose paths move together: the ratio is known far better than either."""
    rng = np.random.default_rng(1)
    luck = rng.lognormal(0.0, 1.0, size=60)
    ratio, low, high = contest.ratio(contest_rows(np.tile(0.9 * luck, (5, 1)), luck), "a", "b")
    assert ratio == pytest.approx(0.9) and high - low < 1e-9
    apart = rng.lognormal(0.0, 1.0, size=(5, 60))
    ratio, low, high = contest.ratio(contest_rows(apart, luck), "a", "b")
    assert high - low > 0.3 and low < ratio < high


def test_few_futures_choose_wrongly_and_all_of_them_rightly() -> None:
    generator = torch.Generator().manual_seed(1)
    luck = torch.randn(1, 12_000, generator=generator).double()
    actions = torch.tensor([0.0, 1.0, 2.0, 3.0]).double()[:, None]
    growth = actions * (0.02 + luck) * 0.1 - 0.0005 * actions**2  # best at a = 2
    best = growth.mean(1)
    wrong, right = (planning.choice_errors(growth, n, True) for n in (10, 3000))
    assert len(wrong[0]) == 1200 and len(right[0]) == 4
    assert (wrong[0] >= 0).all() and wrong[0].mean() > right[0].mean()
    by_hand = growth[:, :10].mean(1).argmax()
    assert wrong[0][0].item() == pytest.approx((best.max() - best[by_hand]).item())
    assert wrong[1].double().mean() < 0.6


def test_common_futures_decide_better_than_independent_ones() -> None:
    """With a shared luck the differences are almost exact; with their own they drown in it."""
    generator = torch.Generator().manual_seed(2)
    luck = torch.randn(1, 20_000, generator=generator).double()
    growth = torch.tensor([0.0, 0.01, 0.02]).double()[:, None] + luck
    common, apart = (planning.choice_errors(growth, 20, c) for c in (True, False))
    assert common[1].all() and common[0].abs().max() < 1e-12
    assert apart[1].double().mean() < 0.6


def test_odds_are_kept_by_path() -> None:
    kept = planning.odds(torch.tensor([[0.1234, 0.5]]), torch.tensor([[True, False]]))
    assert kept["stated"] == [[0.123, 0.5]] and kept["came"] == ["10"]


def test_the_planner_lives_through_the_peaks_with_each_mind(monkeypatch) -> None:
    torch.manual_seed(0)
    model = MambaWorldModel(d_model=8, d_state=2, n_components=2)
    few = heston_market(3, planner_cure.WARMUP + 6, 4)
    model.fit_scaler(few)
    model = model.eval().requires_grad_(False)
    for name, value in {"HORIZON": 6, "N_FUTURES": 4, "live": lambda: few}.items():
        monkeypatch.setattr(planner_cure, name, value)
    monkeypatch.setattr(planner_cure, "world_model", lambda feed, seed: model)
    monkeypatch.setattr(planner_cure, "ensemble", lambda *a: Ensemble([model, model]))
    monkeypatch.setattr(planner_cure, "held_out", lambda: heston_market(2, 400, 2))
    monkeypatch.setattr(planner_cure, "disagreement_threshold", lambda *a, **k: 1.0)
    for mind in planner_cure.MINDS:
        row = planner_cure.row("archive", 0, mind)
        assert 0 <= row["traded"] <= 1 and row["after_6"]["liquidated"] >= 0
    assert (0.0, 0.0) in planner_cure.ACTIONS and len(planner_cure.ACTIONS) == 21
    assert Account().config.max_leverage >= max(max(map(abs, p)) for p in planner_cure.ACTIONS)
