"""The Heston simulation, held to closed forms of the variance and to QuantLib's prices."""

import numpy as np
import pytest
import QuantLib as ql
from scipy import stats

from mambadream_lite.market import HestonParams, simulate_heston, stationary_variance

MAX_ERRORS = 4  # standard errors that a simulated mean may lie from its true value
SCHEMES = ("qe-m", "exact-variance")
STRIKES = (60.0, 100.0, 140.0)

# s0, v0, kappa, theta, sigma, rho, mu
ANDERSEN_I = HestonParams(100, 0.04, 0.5, 0.04, 1.0, -0.9)  # Andersen (2008), Table 1
ANDERSEN_II = HestonParams(100, 0.04, 0.3, 0.04, 0.9, -0.5)
ANDERSEN_III = HestonParams(100, 0.09, 1.0, 0.09, 1.0, -0.3)
BROADIE_KAYA = HestonParams(100, 0.010201, 6.21, 0.019, 0.61, -0.7, 0.0319)  # (2006), Table 1
BOOK = HestonParams(mu=0.05)
ROUGH = HestonParams(v0=0.09, kappa=1.0, theta=0.04, sigma=2.0)  # far from the Feller condition


def quantlib_call(p: HestonParams, strike: float, years: int) -> float:
    today = ql.Date(1, 1, 2020)
    ql.Settings.instance().evaluationDate = today
    day_count = ql.Actual365Fixed()

    def curve(rate: float):
        return ql.YieldTermStructureHandle(ql.FlatForward(today, rate, day_count))

    spot = ql.QuoteHandle(ql.SimpleQuote(p.s0))
    process = ql.HestonProcess(
        curve(p.mu), curve(0.0), spot, p.v0, p.kappa, p.theta, p.sigma, p.rho
    )
    exercise = ql.EuropeanExercise(today + 365 * years)
    option = ql.EuropeanOption(ql.PlainVanillaPayoff(ql.Option.Call, strike), exercise)
    option.setPricingEngine(ql.AnalyticHestonEngine(ql.HestonModel(process), 192))
    return option.NPV()


def errors_from(sample: np.ndarray, truth: float) -> float:
    """How many standard errors the mean of a sample lies from the truth."""
    return abs(sample.mean() - truth) / (sample.std() / len(sample) ** 0.5)


def check_prices(p: HestonParams, years: int, steps: int, scheme: str, n_paths: int) -> None:
    paths = simulate_heston(p, n_paths, steps, years / steps, scheme=scheme, seed=1)
    last = paths.price[:, -1]
    for strike in STRIKES:
        payoff = np.exp(-p.mu * years) * np.maximum(last - strike, 0)
        assert errors_from(payoff, quantlib_call(p, strike, years)) < MAX_ERRORS, strike


@pytest.mark.parametrize(
    ("p", "years"),
    [(ANDERSEN_I, 10), (ANDERSEN_II, 15), (ANDERSEN_III, 5), (BROADIE_KAYA, 1)],
    ids=["andersen-1", "andersen-2", "andersen-3", "broadie-kaya"],
)
def test_qe_prices_calls_like_quantlib(p: HestonParams, years: int) -> None:
    check_prices(p, years, 8 * years, "qe-m", 50_000)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_fine_steps_price_calls_like_quantlib_in_the_books_market(scheme: str) -> None:
    check_prices(BOOK, 1, 250, scheme, 20_000)


@pytest.mark.parametrize("p", [BOOK, ROUGH, BROADIE_KAYA], ids=["book", "rough", "broadie-kaya"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_variance_has_the_mean_and_variance_of_cox_ingersoll_ross(
    p: HestonParams, scheme: str
) -> None:
    steps, dt = 4, 0.01
    v = simulate_heston(p, 100_000, steps, dt, scheme=scheme, seed=2).variance[:, -1]
    decay = np.exp(-p.kappa * steps * dt)
    mean = p.theta + (p.v0 - p.theta) * decay
    spread = p.v0 * decay * (1 - decay) + 0.5 * p.theta * (1 - decay) ** 2
    assert v.min() >= 0
    assert errors_from(v, mean) < MAX_ERRORS
    assert errors_from((v - mean) ** 2, spread * p.sigma**2 / p.kappa) < MAX_ERRORS


@pytest.mark.parametrize("p", [BOOK, ROUGH], ids=["book", "rough"])
def test_exact_variance_has_the_law_of_one_long_step(p: HestonParams) -> None:
    steps, dt = 5, 0.004
    v = simulate_heston(p, 20_000, steps, dt, scheme="exact-variance", seed=3).variance[:, -1]
    decay = np.exp(-p.kappa * steps * dt)
    c = p.sigma**2 * (1 - decay) / (4 * p.kappa)
    law = stats.ncx2(4 * p.kappa * p.theta / p.sigma**2, p.v0 * decay / c, scale=c)
    assert stats.kstest(v, law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("p", [BOOK, ROUGH, ANDERSEN_I], ids=["book", "rough", "andersen-1"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_price_grows_at_the_drift_and_no_faster(p: HestonParams, scheme: str) -> None:
    price = simulate_heston(p, 100_000, 10, 0.05, scheme=scheme, seed=4).price
    assert errors_from(price[:, -1], p.s0 * np.exp(0.5 * p.mu)) < MAX_ERRORS


def test_parameters_beyond_feller_are_legal() -> None:
    assert not ROUGH.feller
    assert HestonParams(sigma=0.4, kappa=40).feller


def test_variance_starts_from_its_stationary_law() -> None:
    p = HestonParams()
    shape = 2 * p.kappa * p.theta / p.sigma**2
    v = stationary_variance(p, 20_000, seed=5)
    assert stats.kstest(v, stats.gamma(shape, scale=p.theta / shape).cdf).pvalue > 1e-3
    # stationary means that a step leaves the law as it was
    later = simulate_heston(p, 20_000, 3, 0.01, seed=6, v0=v).variance[:, -1]
    assert stats.kstest(later, stats.gamma(shape, scale=p.theta / shape).cdf).pvalue > 1e-3


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_seed_fixes_the_paths(scheme: str) -> None:
    first, again, other = (
        simulate_heston(BOOK, 3, 20, 1e-3, scheme=scheme, seed=s).price for s in (7, 7, 8)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_paths_have_one_more_point_than_steps() -> None:
    paths = simulate_heston(BOOK, 3, 20, 1e-3, seed=0)
    assert paths.price.shape == paths.variance.shape == (3, 21)
    assert paths.price[:, 0] == pytest.approx(BOOK.s0)
    assert (paths.variance[:, 0] == BOOK.v0).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("s0", 0.0),
        ("s0", -1.0),
        ("v0", -0.01),
        ("kappa", 0.0),
        ("kappa", -1.0),
        ("theta", 0.0),
        ("theta", -0.04),
        ("sigma", 0.0),
        ("sigma", -0.1),
        ("rho", -1.1),
        ("rho", 1.1),
        ("mu", np.inf),
    ],
)
def test_an_impossible_parameter_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{name}\b.*{value}"):
        HestonParams(**{name: value})


@pytest.mark.parametrize("name", ["s0", "v0", "kappa", "theta", "sigma", "rho", "mu"])
def test_a_parameter_that_is_no_number_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be finite"):
        HestonParams(**{name: float("nan")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_paths": 0}, "n_paths"),
        ({"n_steps": 0}, "n_steps"),
        ({"dt": 0.0}, "^dt"),
        ({"dt": -0.1}, "^dt"),
        ({"dt": float("nan")}, "^dt"),
        ({"scheme": "euler"}, "scheme must be one of.*euler"),
        ({"v0": np.array([0.04, -0.01])}, "^v0"),
        ({"v0": np.array([0.04])}, "^v0"),
        ({"v0": np.array([0.04, np.nan])}, "^v0"),
    ],
)
def test_an_impossible_simulation_is_refused(change: dict, message: str) -> None:
    call = {"n_paths": 2, "n_steps": 3, "dt": 0.01, "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        simulate_heston(BOOK, **call)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_step_in_which_the_mean_price_is_infinite_is_refused(scheme: str) -> None:
    explosive = HestonParams(kappa=2.0, sigma=1.0, rho=0.9)
    with pytest.raises(ValueError, match="^dt = 9.0 is too long"):
        simulate_heston(explosive, 2, 1, 9.0, scheme=scheme, seed=0)
