"""The optimal forecaster, held to a particle filter, to the truth that it cannot see, to closed
forms, and to what no forecaster can do: beat it, or look ahead."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import MultivariateNormal

from mambadream_lite.market import (
    Edge,
    HarVar,
    HestonParams,
    Market,
    bayes_filter,
    bayes_log_score,
    load_sp500,
    make_heston_market,
    particle_log_score,
    stationary_variance,
)
from mambadream_lite.market.bayes import Filtered

PARAMS = HestonParams()
BLIND = Edge(strength=0.0)
SETTLED = 100  # ticks after which a belief has forgotten its start
MAX_ERRORS = 4


def market_of(params: HestonParams, n_paths: int, n_steps: int, seed: int, **kwargs) -> Market:
    v0 = stationary_variance(params, n_paths, seed)
    return make_heston_market(params, n_paths, n_steps, seed=seed, v0=v0, **kwargs)


def mean_and_error(x: torch.Tensor) -> tuple[float, float]:
    """Mean of (B, T) and its standard error from the paths' own means."""
    per_path = x.mean(1)
    return per_path.mean().item(), per_path.std().item() / len(per_path) ** 0.5


@pytest.fixture(scope="module")
def market() -> Market:
    return market_of(PARAMS, 60, 1100, seed=21)


@pytest.fixture(scope="module")
def filtered(market: Market) -> Filtered:
    return bayes_filter(market, PARAMS)


# --- the second opinion -------------------------------------------------------------------------


@pytest.mark.parametrize("edge", [Edge(), BLIND, Edge(strength=1.0)], ids=["on", "off", "loud"])
def test_a_cloud_of_particles_gives_the_same_score(edge: Edge) -> None:
    market = market_of(PARAMS, 16, 150, seed=3, edge=edge)
    grid = bayes_log_score(market, PARAMS, edge=edge)
    cloud = particle_log_score(market, PARAMS, edge=edge, n_particles=4000, seed=4)
    difference, error = mean_and_error(grid - cloud)
    assert error < 1e-3
    assert abs(difference) < MAX_ERRORS * error + 3e-4  # the cloud is low by about 1 / 4000


def test_a_known_start_is_used_by_both() -> None:
    calm = np.full(32, 0.01)
    market = make_heston_market(PARAMS, 32, 5, seed=5, v0=calm)
    grid = bayes_log_score(market, PARAMS, v0=calm)
    cloud = particle_log_score(market, PARAMS, v0=calm, n_particles=4000, seed=6)
    assert (grid - cloud).abs().median() < 0.02
    assert abs((grid - cloud).mean()) < 0.02
    assert (grid - bayes_log_score(market, PARAMS)).mean(0)[0] > 0.2  # it is worth knowing


def test_four_times_the_points_change_nothing(market: Market, filtered: Filtered) -> None:
    part = replace(market.window(0, 300), variance=None)
    fine = bayes_log_score(part, PARAMS, n_grid=800)
    assert abs((fine - filtered.log_score[:, :300]).mean()) < 3e-5


# --- the truth that it cannot see ---------------------------------------------------------------


def test_the_belief_is_right_about_the_variance_on_average(market, filtered) -> None:
    error = (market.variance[:, 1:] - filtered.variance)[:, SETTLED:]
    mean, spread = mean_and_error(error)
    assert abs(mean) < MAX_ERRORS * spread
    # an optimal forecast leaves an error that its own value says nothing about
    product, spread = mean_and_error(error * (filtered.variance[:, SETTLED:] - PARAMS.theta))
    assert abs(product) < MAX_ERRORS * spread
    assert error.square().mean() < 0.05 * market.variance.var()


def test_the_belief_covers_the_variance_as_often_as_it_says() -> None:
    market = market_of(PARAMS, 40, 200, seed=7)
    filtered = bayes_filter(market, PARAMS, keep_belief=True)
    below = filtered.belief.cumsum(-1)
    inside = 0.0
    for tick in range(SETTLED, 200, 20):
        spot = torch.searchsorted(filtered.grid, market.variance[:, tick + 1].contiguous())
        level = below[:, tick].gather(1, spot[:, None].clamp(max=len(filtered.grid) - 1))
        inside += ((level > 0.05) & (level < 0.95)).double().mean().item() / 5
    assert inside == pytest.approx(0.9, abs=MAX_ERRORS * (0.09 / 200) ** 0.5 + 0.01)


def test_the_forecast_of_the_return_is_unbiased_and_as_wide_as_it_says(market, filtered) -> None:
    ahead = market.log_return[:, SETTLED + 1 :]
    mean, sd = filtered.return_mean[:, SETTLED:-1], filtered.return_sd[:, SETTLED:-1]
    z = (ahead - mean) / sd
    for moment, truth in ((z, 0.0), (z.square(), 1.0), (z * mean / sd, 0.0)):
        value, error = mean_and_error(moment)
        assert abs(value - truth) < MAX_ERRORS * error
    # and the edge is in it: the forecast explains some of what comes
    value, error = mean_and_error(ahead * mean / sd.square())
    assert value > MAX_ERRORS * error


# --- what no forecaster can do ------------------------------------------------------------------


@pytest.mark.parametrize(
    "belief",
    [
        {"params": replace(PARAMS, kappa=80.0)},
        {"params": replace(PARAMS, theta=0.08)},
        {"params": replace(PARAMS, sigma=1.0)},
        {"params": replace(PARAMS, rho=-0.3)},
        {"params": PARAMS, "edge": Edge(strength=0.4)},
        {"params": PARAMS, "edge": Edge(persistence=0.8)},
    ],
    ids=["kappa", "theta", "sigma", "rho", "strength", "persistence"],
)
def test_who_believes_in_another_market_scores_less(market, filtered, belief: dict) -> None:
    wrong = bayes_log_score(market, **belief)
    lead, error = mean_and_error((filtered.log_score - wrong)[:, SETTLED:])
    assert lead > 3 * error


@pytest.mark.parametrize("shrink", [0.8, 1.0])
def test_another_density_over_this_one_averages_to_one(market, filtered, shrink: float) -> None:
    """E[q / p] = 1 for any density q if p is the true one: a constant left out would show."""
    law = HarVar.fit(market_of(PARAMS, 5, 2000, seed=8)).forecast(market)
    q = MultivariateNormal(law.mean, scale_tril=shrink * law.scale_tril)
    log_ratio = q.log_prob(market.features[:, 1:].double()) - filtered.log_score[:, 1:]
    value, error = mean_and_error(log_ratio[:, SETTLED:].exp())
    assert error < 0.02
    assert abs(value - 1) < MAX_ERRORS * error


@pytest.mark.parametrize("now", [0, 1, 30])
def test_the_future_does_not_change_a_score(market: Market, now: int) -> None:
    part = market.window(0, 60)
    features = part.features.clone()
    features[:, now + 1 :] = features[:, now + 1 :].flip(1) * 0.9
    before = bayes_filter(part, PARAMS)
    after = bayes_filter(replace(part, features=features), PARAMS)
    for name in ("log_score", "velocity_score", "variance", "return_mean", "return_sd"):
        old, new = getattr(before, name), getattr(after, name)
        assert torch.equal(old[:, : now + 1], new[:, : now + 1])
        assert not torch.equal(old[:, now + 1], new[:, now + 1])


# --- closed forms -------------------------------------------------------------------------------


def test_with_a_still_variance_the_scores_are_closed_forms() -> None:
    still = HestonParams(sigma=0.01)
    market = market_of(still, 4, 400, seed=9, edge=BLIND)
    filtered = bayes_filter(market, still, edge=BLIND)
    sd = (still.theta * market.bar) ** 0.5
    velocity = stats.norm.logpdf(market.log_return, -0.5 * sd**2, sd) + np.log(market.velocity_unit)
    assert filtered.velocity_score.mean().item() == pytest.approx(velocity.mean(), abs=2e-4)
    ratio = np.exp(2 * market.features[..., 1].double().numpy()) / still.theta
    volatility = stats.chi2.logpdf(12 * ratio, 12) + np.log(24 * ratio)
    imbalance, spread, volume, flow = market.features[:, 1:, 2:].double().unbind(-1)
    before = market.features[:, :-1].double()
    excitement = market.features[:, 1:, 1].double() - np.log(0.2)
    rest = stats.norm.logpdf(imbalance, 0.9 * before[..., 2], 0.19**0.5)
    rest += stats.norm.logpdf(spread, 0.8 * before[..., 3] + 0.1 * excitement, 0.1)
    rest += stats.norm.logpdf(volume, 0.7 * before[..., 4] + 0.3 * excitement, 0.25)
    standardised = market.features[:, 1:, 0].double() / excitement.exp()
    rest += stats.norm.logpdf(flow, 0.6 * standardised + 0.3 * before[..., 2], 0.7)
    joint = velocity[:, 1:] + volatility[:, 1:] + rest
    assert filtered.log_score[:, 1:].mean().item() == pytest.approx(joint.mean(), abs=5e-4)


def test_the_first_tick_integrates_over_the_imbalance_that_nobody_saw() -> None:
    """Against Bayes' rule by brute force: draw what was not seen, average the density."""
    edge = Edge(strength=2.0)
    still = HestonParams(sigma=0.01)
    market = market_of(still, 5, 1, seed=10, edge=edge)
    score = bayes_log_score(market, still, edge=edge)[:, 0]
    velocity, volatility, imbalance, spread, volume, flow = market.features[:, 0].double().T
    unseen = np.random.default_rng(11).standard_normal((400_000, 1))
    sd = (still.theta * market.bar) ** 0.5
    z = ((velocity * market.velocity_unit + 0.5 * sd**2) / sd).numpy()
    # at this sigma the whole shock of the price decides, but for rho: its own part is tilted
    own = stats.norm.cdf(z * (1 - still.rho**2) ** 0.5 / abs(still.rho))
    up = 1 / (1 + np.exp(-2.0 * unseen))
    density = 2 * stats.norm.pdf(z) / sd * market.velocity_unit * (up * own + (1 - up) * (1 - own))
    excitement = (volatility - np.log(0.2)).numpy()
    standardised = velocity.numpy() / np.exp(excitement)
    density *= stats.norm.pdf(imbalance, 0.9 * unseen, 0.19**0.5)
    density *= stats.norm.pdf(flow, 0.6 * standardised + 0.3 * unseen, 0.7)
    ratio = np.exp(2 * volatility.numpy()) / still.theta
    known = stats.chi2.logpdf(12 * ratio, 12) + np.log(24 * ratio)
    known += stats.norm.logpdf(spread, 0.1 * excitement, 0.1)
    known += stats.norm.logpdf(volume, 0.3 * excitement, 0.25)
    assert score.numpy() == pytest.approx(known + np.log(density.mean(0)), abs=0.02)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_the_edge_is_worth_what_its_formula_says(strength: float) -> None:
    edge = Edge(strength=strength)
    market = market_of(PARAMS, 40, 600, seed=12, edge=edge)
    knows = bayes_filter(market, PARAMS, edge=edge).velocity_score
    # who knows the variance equally well but not the edge: the same belief, an untilted forecast
    ignorant = bayes_filter(market, PARAMS, edge=BLIND).velocity_score
    value, error = mean_and_error((knows - ignorant)[:, SETTLED:])
    # not knowing the edge also spoils the belief about the variance, by a little
    assert value == pytest.approx(edge.value(PARAMS.rho), abs=MAX_ERRORS * error, rel=0.03)


# --- refusals -----------------------------------------------------------------------------------


def test_a_real_market_has_no_known_limit() -> None:
    with pytest.raises(ValueError, match="nobody knows the limit"):
        bayes_log_score(load_sp500(), PARAMS)


@pytest.mark.parametrize(
    ("params", "kwargs", "message"),
    [
        (replace(PARAMS, sigma=3.0), {}, "below sigma"),
        (replace(PARAMS, rho=-1.0), {}, "rho must lie"),
        (PARAMS, {"n_grid": 100}, "n_grid must be at least"),
        (PARAMS, {"v0": np.zeros(3)}, "v0 must hold 60 variances"),
        (PARAMS, {"v0": np.full(60, 2.0)}, "v0 must hold 60 variances"),
        (replace(PARAMS, sigma=0.01), {"v0": np.full(60, 0.01)}, "v0 must hold 60 variances"),
    ],
    ids=["rough", "rho", "coarse", "v0-shape", "v0-high", "v0-low"],
)
def test_what_a_grid_cannot_hold_is_refused(market, params, kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bayes_log_score(market, params, **kwargs)


def test_data_from_elsewhere_is_located(market: Market) -> None:
    features = market.features[:3, :20].clone()
    features[1, 7, 0] = 500.0
    part = market.window(0, 20)
    odd = replace(
        part,
        features=features,
        price=part.price[:3],
        high=part.high[:3],
        low=part.low[:3],
        variance=None,
    )
    with pytest.raises(ValueError, match="bar 7 of path 1"):
        bayes_log_score(odd, PARAMS)
