"""The study of chapter 07, in small."""

from pathlib import Path

import pytest
import torch

from mambadream_lite.agent import BuyAndHold, Flat
from mambadream_lite.judge import agents
from mambadream_lite.judge.utility import true_mean
from mambadream_lite.market import AccountConfig
from mambadream_lite.model import MambaWorldModel
from mambadream_lite.model.recipes import PARAMS, heston_market


@pytest.fixture
def small(tmp_path: Path, monkeypatch) -> None:
    torch.manual_seed(0)
    model = MambaWorldModel(d_model=8, d_state=2, n_components=2)
    model.fit_scaler(heston_market(4, 200, 1))
    model = model.eval().requires_grad_(False)
    market = heston_market(6, 121, 5)
    test = (market, agents.seen_by_the_best(market, 20), true_mean(market, PARAMS, 20))
    monkeypatch.setattr(agents, "world_model", lambda seed, n_paths=200: model)
    monkeypatch.setattr(agents, "locked_market", lambda: test)
    for name, value in {"WARMUP": 20, "HORIZON": 5, "ROUNDS": 2, "STARTS": 4, "DREAMS": 2}.items():
        monkeypatch.setattr(agents, name, value)
    agents.pool.cache_clear()
    yield
    agents.pool.cache_clear()


def test_flat_earns_nothing_and_holding_pays_once(small) -> None:
    path = agents.locked_market()[1]
    flat, held = agents.score(Flat(), path), agents.score(BuyAndHold(), path)
    assert flat["utility"] == flat["as_it_came"] == flat["turnover_a_tick"] == 0
    assert held["turnover_a_tick"] == pytest.approx(1 / path.horizon, rel=0.01)
    rise = (path.log_price[:, -1] - path.log_price[:, 0]).mean().item() * 1e4
    cost = AccountConfig().turnover_cost * 1e4
    assert held["as_it_came"] == pytest.approx((rise - cost) / path.horizon, abs=2e-3)


@pytest.mark.parametrize("kind", ["dreamer", "continuous", "simulator", "stable-baselines3"])
def test_every_kind_of_agent_is_trained_and_scored(small, kind: str) -> None:
    row = agents.KINDS[kind](seed=0)
    assert row == agents.KINDS[kind](seed=0)  # a seed fixes it
    assert row["utility_error"] >= 0 and abs(row["utility"]) < 1000


def test_model_free_learning_counts_the_ticks_that_it_saw(small) -> None:
    assert agents.model_free(0, 3)["market_ticks"] == 3 * 4 * 2 * 5


def test_the_optimal_forecasters_path_has_its_moments(small) -> None:
    """Its expected return is near the simulator's own, which knows the latent variance."""
    _, path, mean = agents.locked_market()
    both = torch.stack([path.reward.flatten(), mean.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.97


def test_rows_are_wanted_for_every_seed() -> None:
    wanted = agents.tasks(4)
    for kind in ("dreamer", "continuous", "simulator", "stable-baselines3"):
        of_kind = [t["seed"] for t in wanted if t["kind"] == kind and "n_paths" not in t]
        assert sorted(of_kind) == [0, 1, 2, 3]
    assert [t["name"] for t in wanted if t["kind"] == "rule"] == list(agents.RULES)
