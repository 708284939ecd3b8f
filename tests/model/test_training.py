"""Training: it learns, it repeats itself, and it never looks across or ahead."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from mambadream_lite.market import HestonParams, Market, make_heston_market
from mambadream_lite.model import MambaWorldModel, evaluate, fit, run, sample_windows, training


def small_model(seed: int = 0) -> MambaWorldModel:
    torch.manual_seed(seed)
    return MambaWorldModel(d_model=16, d_state=8, n_components=2)


def train(model: MambaWorldModel, market: Market, **changes) -> training.History:
    settings = {"n_steps": 5, "batch_size": 8, "window": 32, "seed": 1, "progress": False}
    return fit(model, market, **(settings | changes))


def test_the_model_beats_the_unconditional_gaussian() -> None:
    """The best that a forecaster without memory can say, fitted on the same training data."""
    seen, unseen = (make_heston_market(HestonParams(), 8, 1000, seed=s) for s in (1, 2))
    flat = seen.features.reshape(-1, 6).double()
    unconditional = MultivariateNormal(flat.mean(0), torch.cov(flat.T))
    baseline = unconditional.log_prob(unseen.features.double()).mean().item()

    model = small_model()
    model.fit_scaler(seen)
    untrained = evaluate(model, unseen)
    history = train(model, seen, n_steps=150, window=64)
    assert evaluate(model, unseen) > baseline + 0.5
    assert evaluate(model, unseen) > untrained + 1
    assert history.step == [20, 40, 60, 80, 100, 120, 140, 150]
    assert history.log_score[-1] > history.log_score[0] + 1


def test_the_reward_head_learns_the_expected_return(market: Market) -> None:
    """Returns are set to what the imbalance before them says: the head must find the slope."""
    features = market.features.clone()
    features[:, 1:, 0] = 0.5 * features[:, :-1, 2] + 0.5 * features[:, 1:, 0]
    told = replace(market, features=features)
    model = small_model()
    train(model, told, n_steps=150)
    with torch.no_grad():
        _, reward, _ = model(features)
    expected = 0.5 * features[..., 2] * market.velocity_unit
    assert np.corrcoef(reward[:, 20:].ravel(), expected[:, 20:].ravel())[0, 1] > 0.9
    slope = (reward * expected)[:, 20:].sum() / expected[:, 20:].square().sum()
    assert 0.8 < slope < 1.2


def test_two_runs_with_one_seed_agree_to_the_bit(market: Market) -> None:
    first, again = small_model(), small_model()
    assert train(first, market).log_score == train(again, market).log_score
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_mixed_precision_learns_what_float32_learns(market: Market) -> None:
    exact, mixed = small_model(), small_model()
    train(exact, market, n_steps=60)
    train(mixed, market, n_steps=60, mixed_precision=True)
    assert any((a != b).any() for a, b in zip(exact.parameters(), mixed.parameters(), strict=True))
    assert evaluate(mixed, market) == pytest.approx(evaluate(exact, market), abs=0.05)


def test_mixed_precision_keeps_what_adds_up_in_float32(market: Market) -> None:
    model = small_model()
    model.fit_scaler(market)
    x = market.features[:, :40]
    with torch.no_grad():
        exact, reward, hidden = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            law, mixed_reward, mixed_hidden = model(x)
    assert next(model.parameters()).dtype == torch.float32
    assert mixed_reward.dtype == law.component_mean.dtype == torch.float32
    for state, known in zip(mixed_hidden, hidden, strict=True):
        assert state.ssm.dtype == torch.float32
        torch.testing.assert_close(state.ssm, known.ssm, rtol=0.05, atol=0.02)
    assert (law.stddev / exact.stddev - 1).abs().max() < 0.05


def test_the_seed_draws_the_windows(market: Market) -> None:
    first, other = small_model(), small_model()
    train(first, market)
    train(other, market, seed=2)
    assert not torch.equal(first.embed.weight, other.embed.weight)


def test_windows_never_cross_from_one_path_to_another(market: Market) -> None:
    features = market.features.clone()
    n_paths, n_ticks, _ = features.shape
    features[..., 0] = torch.arange(n_paths)[:, None]
    features[..., 1] = torch.arange(n_ticks)
    drawn = sample_windows(replace(market, features=features), 500, 64, np.random.default_rng(0))
    assert (drawn[..., 0] == drawn[:, :1, 0]).all()
    assert (drawn[:, 1:, 1] - drawn[:, :-1, 1] == 1).all()
    assert set(drawn[:, 0, 0].tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert drawn[:, 0, 1].min() < 10
    assert drawn[:, -1, 1].max() > n_ticks - 10


def test_windows_never_cross_a_gap(model: MambaWorldModel, market: Market) -> None:
    n_ticks = market.features.shape[1]
    features = market.features.clone()
    features[..., 0] = (torch.arange(n_ticks) >= 100).float()  # tells the two pieces apart
    torn = replace(market, features=features, gap=np.arange(n_ticks) == 100)
    drawn = sample_windows(torn, 500, 64, np.random.default_rng(0))
    assert (drawn[..., 0] == drawn[:, :1, 0]).all()
    assert 0 < drawn[:, 0, 0].mean() < 1  # both pieces are drawn from
    whole = evaluate(model, market, window=50)
    assert evaluate(model, replace(market, gap=torn.gap), window=50) != whole
    with pytest.raises(ValueError, match="window must lie between"):
        train(model, replace(market, gap=np.arange(n_ticks) % 20 == 0))


def test_a_window_can_be_a_whole_path(market: Market) -> None:
    whole = market.features.shape[1]
    drawn = sample_windows(market, 3, whole, np.random.default_rng(0))
    assert drawn.shape == (3, whole, 6)


@torch.no_grad()
def test_a_forecast_is_scored_on_the_tick_after_it(model: MambaWorldModel, market: Market) -> None:
    x = market.features[:, :31]
    log_score, error = training.score(model, x)
    assert log_score.shape == error.shape == (4, 30 - training.WARMUP)
    for t in (training.WARMUP, 29):
        law, reward, _ = model(x[:, : t + 1])
        earned = market.price[:, t + 2] / market.price[:, t + 1] - 1  # bar t + 1
        sd = law[:, -1].stddev[:, 0] * model.velocity_unit
        expected = law[:, -1].log_prob(x[:, t + 1])
        assert torch.allclose(log_score[:, t - training.WARMUP], expected, atol=1e-4)
        missed = ((reward[:, -1].double() - earned) / sd).square().float()
        assert torch.allclose(error[:, t - training.WARMUP], missed, rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_evaluate_is_the_mean_over_consecutive_windows(model, market: Market) -> None:
    parts = [market.features[:, i * 100 : i * 100 + 101] for i in range(2)]  # 300 ticks: 2 full
    expected = torch.cat([training.score(model, x)[0] for x in parts]).mean().item()
    assert evaluate(model, market, window=100) == pytest.approx(expected, rel=1e-6)


def test_the_weights_that_validated_best_are_kept(market: Market, monkeypatch) -> None:
    scores, seen = iter([1.0, 3.0, 2.0]), []

    def scripted(model: MambaWorldModel, *_: object, **__: object) -> float:
        seen.append(model.embed.weight.detach().clone())
        return next(scores)

    monkeypatch.setattr(training, "evaluate", scripted)
    model = small_model()
    history = train(model, market, n_steps=6, val=market, val_every=2)
    assert history.val_step == [2, 4, 6]
    assert history.val_log_score == [1.0, 3.0, 2.0]
    assert torch.equal(model.embed.weight, seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_the_scaler_is_fitted_on_training_data_alone(market: Market) -> None:
    other = replace(market, features=market.features + 100)
    model = small_model()
    train(model, market, val=other)
    expected = market.features.reshape(-1, 6).mean(0)
    assert torch.allclose(model.feature_mean, expected, atol=1e-4)


@pytest.mark.parametrize("n_steps", [1, 2, 9, 10, 11, 500])
def test_the_learning_rate_rises_and_falls_at_any_length(market: Market, n_steps: int) -> None:
    begun = run.Run.start(small_model(), n_steps, 3e-3, 0.01, 0)
    rates = []
    for _ in range(n_steps):
        rates.append(begun.optimizer.param_groups[0]["lr"])
        begun.optimizer.step()
        begun.schedule.step() if len(rates) < n_steps else None
    assert max(rates) <= 3e-3 * (1 + 1e-9) and all(np.isfinite(rates)) and min(rates) >= 0
    assert n_steps < 3 or rates[-1] < 1e-3 * max(rates)


def test_a_scaler_can_be_kept(market: Market) -> None:
    model = small_model()
    model.fit_scaler(market)
    mean = model.feature_mean.clone()
    other = replace(market, features=market.features + 1)
    train(model, other, n_steps=1, keep_scaler=True)
    assert torch.equal(model.feature_mean, mean)
    train(model, other, n_steps=1)
    assert not torch.equal(model.feature_mean, mean)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_steps": 0}, "^n_steps must be at least 1, got 0"),
        ({"batch_size": 0}, "^batch_size must be at least 1, got 0"),
        ({"window": 16}, "^window must lie between 17 and the 299.*got 16"),
        ({"window": 300}, "^window must lie between 17 and the 299.*got 300"),
    ],
)
def test_impossible_settings_are_named(market: Market, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(small_model(), market, **change)


def test_a_market_too_short_to_score_is_refused(model: MambaWorldModel, market: Market) -> None:
    with pytest.raises(ValueError, match="^market: 50 ticks hold no window of 128"):
        evaluate(model, market.window(0, 50))
