"""The planted edge: as strong as declared, and nothing else is changed by it."""

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.special import expit

from mambadream_lite.market import Edge
from mambadream_lite.market.order_book import imbalance_path

N = 400_000


@pytest.fixture(scope="module")
def draws() -> tuple[np.ndarray, np.ndarray, Edge]:
    edge = Edge(strength=1.0, persistence=0.8)
    rng = np.random.default_rng(1)
    imbalance = imbalance_path(edge, N // 1000, 1000, rng)[:, :-1]
    shocks = edge.tilt(rng.standard_normal(imbalance.shape), imbalance, rng.random(imbalance.shape))
    return shocks, imbalance, edge


@pytest.mark.parametrize("strength", [0.0, 0.12, 1.0, 3.0])
def test_hit_rate_is_the_mean_of_the_sigmoid(strength: float) -> None:
    exact = 2 * quad(lambda x: expit(strength * x) * stats.norm.pdf(x), 0, 12)[0]
    assert Edge(strength=strength).hit_rate == pytest.approx(exact, abs=1e-6)


def test_shocks_take_the_sign_of_the_imbalance_as_often_as_declared(draws) -> None:
    shocks, imbalance, edge = draws
    hit = (shocks * imbalance > 0).mean()
    error = np.sqrt(edge.hit_rate * (1 - edge.hit_rate) / N)
    assert abs(hit - edge.hit_rate) < 4 * error


def test_mean_shock_given_the_imbalance_is_as_declared(draws) -> None:
    shocks, imbalance, edge = draws
    for low, high in [(-3, -1), (-1, 0), (0, 0.5), (0.5, 3)]:
        inside = (imbalance > low) & (imbalance < high)
        gap = shocks[inside] - edge.shock_mean(imbalance[inside])
        assert abs(gap.mean()) < 4 * gap.std() / inside.sum() ** 0.5


def test_shocks_stay_standard_normal(draws) -> None:
    """The edge tilts signs by a variable that is symmetric: the margin must not feel it."""
    shocks, _, _ = draws
    assert stats.kstest(shocks[:, ::5].ravel(), stats.norm.cdf).pvalue > 1e-3


def test_tilt_changes_signs_only() -> None:
    rng = np.random.default_rng(2)
    shocks, imbalance, uniform = rng.standard_normal(99), rng.standard_normal(99), rng.random(99)
    tilted = Edge(strength=1.0).tilt(shocks, imbalance, uniform)
    assert np.array_equal(np.abs(tilted), np.abs(shocks))


def test_a_strong_imbalance_decides_the_sign() -> None:
    imbalance = np.array([50.0, -50.0])
    tilted = Edge(strength=1.0).tilt(np.array([-0.3, 0.7]), imbalance, np.array([0.999, 0.001]))
    assert tilted.tolist() == [0.3, -0.7]


@pytest.mark.parametrize("persistence", [0.0, 0.5, 0.9])
def test_imbalance_is_a_stationary_ar1_of_unit_variance(persistence: float) -> None:
    n_paths = 20_000  # independent paths: plain standard errors hold at each tick
    path = imbalance_path(Edge(persistence=persistence), n_paths, 12, np.random.default_rng(3))
    error = 4 / n_paths**0.5
    for t in (0, 1, 12):
        assert stats.kstest(path[:, t], stats.norm.cdf).pvalue > 1e-3
    for lag in (1, 2, 5, 12):
        assert abs(np.corrcoef(path[:, 0], path[:, lag])[0, 1] - persistence**lag) < error


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strength", -0.1),
        ("strength", float("nan")),
        ("persistence", 1.0),
        ("persistence", -0.1),
        ("persistence", float("nan")),
    ],
)
def test_an_impossible_edge_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must.*{value}"):
        Edge(**{name: value})


@pytest.mark.parametrize(("strength", "rho"), [(1.0, -0.7), (2.0, 0.0), (0.5, 0.3)])
def test_the_value_of_the_edge_is_the_mean_log_ratio_of_the_densities(strength, rho) -> None:
    """By Monte Carlo, from the declaration alone."""
    rng = np.random.default_rng(6)
    n = 400_000
    imbalance = rng.standard_normal(n)
    up = rng.random(n) < 1 / (1 + np.exp(-strength * imbalance))
    own = np.abs(rng.standard_normal(n)) * np.where(up, 1, -1)
    x = rho * rng.standard_normal(n) + np.sqrt(1 - rho**2) * own
    above = stats.norm.cdf(x * np.sqrt(1 - rho**2) / max(abs(rho), 1e-9))
    p = 1 / (1 + np.exp(-strength * imbalance))
    gain = np.log(2 * (p * above + (1 - p) * (1 - above)))
    error = gain.std() / n**0.5
    assert abs(Edge(strength=strength).value(rho) - gain.mean()) < 4 * error


def test_a_small_edge_is_worth_its_square() -> None:
    leading = 0.01**2 / (4 * np.pi) * np.arcsin(1 - 0.7**2)
    assert Edge(strength=0.01).value(-0.7) == pytest.approx(leading, rel=1e-3)
    assert Edge(strength=0.0).value(-0.7) == 0
    with pytest.raises(ValueError, match="rho must lie"):
        Edge().value(1.0)


@pytest.mark.parametrize(("strength", "rho"), [(1.0, -0.7), (3.0, 0.0), (0.5, 0.3)])
def test_r_squared_and_memory_of_returns_are_as_declared(strength: float, rho: float) -> None:
    """By Monte Carlo: returns in units of their sd, tilted by the imbalance before them."""
    edge, rng = Edge(strength=strength), np.random.default_rng(8)
    n_paths, n = 200, 5000
    imbalance = imbalance_path(edge, n_paths, n, rng)[:, :-1]
    own = edge.tilt(rng.standard_normal((n_paths, n)), imbalance, rng.random((n_paths, n)))
    x = rho * rng.standard_normal((n_paths, n)) + np.sqrt(1 - rho**2) * own
    told = np.sqrt(1 - rho**2) * edge.shock_mean(imbalance)
    for product, expected in (
        (told * x, edge.r_squared(rho)),
        (x[:, 1:] * x[:, :-1], edge.acf1(rho)),
    ):
        per_path = product.mean(1)
        error = per_path.std() / n_paths**0.5
        assert error < 0.1 * expected
        assert abs(per_path.mean() - expected) < 4 * error


def test_a_small_edge_is_remembered_as_its_imbalance_is() -> None:
    edge = Edge(strength=0.01, persistence=0.8)
    assert edge.acf1(-0.7) / edge.r_squared(-0.7) == pytest.approx(0.8, rel=1e-3)
