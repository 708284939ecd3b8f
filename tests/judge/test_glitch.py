"""The studies of chapters 08 and 09, in small: peaks are peaks, rows say what happened."""

from pathlib import Path

import pytest
import torch
from scipy.stats import mannwhitneyu

from mambadream_lite.agent import PPO
from mambadream_lite.judge import cures, glitch
from mambadream_lite.market import Account, Market
from mambadream_lite.market.features import VOLATILITY
from mambadream_lite.model import MambaWorldModel, recipes, save_world_model
from mambadream_lite.model.recipes import heston_market


@pytest.fixture(scope="module")
def peaks() -> Market:
    return glitch.storms(60, 11)


@pytest.fixture
def small(tmp_path: Path, peaks: Market, monkeypatch) -> Path:
    """Tiny untrained models of all feeds and seeds, few peaks, one round of training."""
    work = tmp_path / "work"
    years = tuple(feed + glitch.YEARS for feed in glitch.FEEDS[:2])
    for i, feed in enumerate(glitch.FEEDS + years):
        for seed in range(3):
            torch.manual_seed(10 * i + seed)
            model = MambaWorldModel(d_model=8, d_state=2, n_components=2)
            torch.nn.init.normal_(model.head.skip.weight, std=0.02)
            model.fit_scaler(heston_market(4, 200, 1))
            save_world_model(model, work / f"{feed}-{seed}.safetensors")
    few = peaks.windows(*_first(peaks, 3))
    for module in (glitch, cures):
        monkeypatch.setattr(module, "WORK", work)
        monkeypatch.setattr(module, "ROUNDS", 1)
        monkeypatch.setattr(module, "live", lambda: few)
        monkeypatch.setattr(module, "starts", lambda: few.window(0, glitch.WARMUP))
        monkeypatch.setattr(module, "HORIZON", 8)
    monkeypatch.setattr(glitch, "TICKS", (1, 2, 5))
    monkeypatch.setattr(cures, "SEEDS", 3)
    monkeypatch.setattr(cures, "held_out", lambda: heston_market(2, 500, 2))
    monkeypatch.setattr(cures, "ordinary", lambda: heston_market(2, 500, 3))
    for cached in (glitch.world_model, cures.mixed_starts):
        cached.cache_clear()
    yield work
    for cached in (glitch.world_model, cures.mixed_starts):
        cached.cache_clear()


def _first(market: Market, n: int):
    import numpy as np

    return np.arange(n), np.zeros(n, dtype=int), market.features.shape[1]


def test_a_peak_is_the_last_tick_of_the_warm_up(peaks: Market) -> None:
    volatility = peaks.features[..., VOLATILITY].exp()
    assert peaks.features.shape[1] == glitch.WARMUP + glitch.AFTER
    assert len(volatility) > 20
    assert (volatility[:, glitch.WARMUP - 1] > glitch.PEAK).all()
    early = (volatility[:, : glitch.WARMUP - 1] > glitch.PEAK).any(1)
    assert early.double().mean() < 0.2  # only where a path began with a storm


def test_an_agent_is_trained_once_and_kept(small: Path, monkeypatch) -> None:
    first = glitch.agent("archive", 1)
    assert (small / "agent-archive-1-both.safetensors").exists()
    monkeypatch.setattr(glitch, "dream_and_train", lambda *a, **k: pytest.fail("trained again"))
    again = glitch.agent("archive", 1)
    for a, b in zip(first.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("contract", [True, False])
def test_a_row_tells_both_lives(small: Path, contract: bool) -> None:
    row = glitch.row("archive", 0, contract)
    assert row["peaks"] == 3
    assert set(row["dream"]) - set(row["market"]) == set()
    assert (row["market"]["contracts_at_peak"] == 0) or contract
    market = [100 * glitch.live().features[:, glitch.WARMUP + k - 1, VOLATILITY].exp().median()
              for k in glitch.TICKS]  # fmt: skip
    assert row["market"]["volatility"] == pytest.approx([m.item() for m in market], abs=0.01)
    assert row["market"]["after_192"]["liquidated"] >= row["market"]["after_8"]["liquidated"]


def test_a_thousandth_is_the_least_that_counts() -> None:
    class Episode:
        equity = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        ruined = torch.tensor([[False, True], [False, False]])

    found = glitch.outcome(Episode, 1)
    assert found["liquidated"] == 0.5
    assert found["log_equity"] == pytest.approx(-6.9078 / 2, abs=1e-3)


@pytest.mark.parametrize(
    "task",
    [
        {"cure": "none"},
        {"cure": "horizon", "horizon": 8},
        {"cure": "ensemble", "kind": "other feeds", "how": "averaged"},
        {"cure": "ensemble", "kind": "same feed", "how": "halted"},
        {"cure": "ensemble", "kind": "same feed", "how": "paused"},
        {"cure": "ensemble", "kind": "other feeds", "how": "retrained"},
        {"cure": "ensemble", "kind": "other years", "how": "halted"},
        {"cure": "alarm", "share": 0.01},
        {"cure": "together"},
    ],
    ids=lambda task: "-".join(map(str, task.values())),
)
def test_every_cure_ends_in_an_outcome(small: Path, task: dict) -> None:
    more = {k: v for k, v in task.items() if k != "cure"}
    row = cures.CURES[task["cure"]]("archive", 0, **more)
    assert row["after_192"]["log_equity"] <= 10 and 0 <= row["traded"] <= 1


def test_an_ensemble_holds_no_member_twice(small: Path) -> None:
    for kind in cures.ENSEMBLES:
        for feed in ("archive", "archive-whole"):
            members = cures.ensemble(kind, feed, 2).members
            assert len({id(m) for m in members}) == len(members) >= 2
            assert members[0] is glitch.world_model(feed, 2)


@pytest.mark.parametrize("vendor", ["archive", "archive-whole"])
def test_other_years_are_the_same_vendors_of_another_market(vendor: str, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(recipes, "clean_archive", lambda params, **k: asked.append(k))
    for feed, seed in ((vendor, 1), (vendor, 2), (f"{vendor}-years", 1), (f"{vendor}-years", 2)):
        made = glitch.recipe(feed, seed)
        assert made.seed == seed
        made.data()
    assert {k["cleaned"] for k in asked} == {vendor == "archive"}
    train = [k["seed"] for k in asked if "batches" not in k]
    assert train[0] == train[1] == recipes.TRAIN_SEED
    assert len(set(train)) == 3


def test_halting_keeps_an_agent_out_where_members_disagree(small: Path, monkeypatch) -> None:
    """With a threshold that all ticks exceed nobody trades, and nothing is lost."""
    monkeypatch.setattr(cures, "disagreement_threshold", lambda *a, **k: 1e-9)
    row = cures.ensemble_cure("archive", 0, "other feeds", "halted")
    assert row["halted_at_peak"] == 1 and row["traded"] == 0
    assert row["after_192"] == {"log_equity": 0.0, "log_equity_error": 0.0, "liquidated": 0.0}
    assert row["ordinary_ticks_stopped"] == 1


def test_the_area_under_the_curve_is_that_of_mann_and_whitney() -> None:
    generator = torch.Generator().manual_seed(1)
    region = torch.rand(4000, generator=generator) < 0.1
    score = torch.randn(4000, generator=generator) + 1.2 * region
    found = cures.curve(score, region)
    u = mannwhitneyu(score[region], score[~region]).statistic
    assert found["area"] == pytest.approx(u / (region.sum() * (~region).sum()).item(), abs=2e-3)
    limit = score[~region].quantile(0.95)
    caught = (score[region] > limit).double().mean().item()
    assert found["found_at"]["0.05"] == pytest.approx(caught, abs=0.01)


def test_agents_of_the_study_are_charged_for_ruin(small: Path) -> None:
    trader = PPO(glitch.world_model("archive", 0), Account(), glitch.config(False), seed=1)
    assert trader.config.worst_reward == -3 and trader.config.contract_levels == ()
