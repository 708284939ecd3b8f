"""The Heston market: a price whose variance is itself random (chapter 01).

Heston (1993)::

    dS / S = mu dt + sqrt(v) dW1
    dv     = kappa (theta - v) dt + sigma sqrt(v) dW2,     corr(dW1, dW2) = rho

Two ways to step the variance. ``"qe-m"`` is Andersen's quadratic-exponential scheme, fast
at coarse steps. ``"exact-variance"`` draws from the transition law itself, a scaled
non-central chi-square. Both share Andersen's log-price step with the martingale correction.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

BARS_PER_YEAR = 252 * 78  # 5-minute bars of a 6.5-hour session
SCHEMES = ("qe-m", "exact-variance")
PSI_SWITCH = 1.5  # Andersen (2008), section 3.2.3: where the two QE branches meet


@dataclass(frozen=True)
class HestonParams:
    """Parameters of the Heston model, all per year (chapter 01).

    Attributes:
        s0: price at time 0, > 0.
        v0: variance at time 0, >= 0.
        kappa: speed of mean reversion, > 0.
        theta: long-run variance, > 0 (0.04 is 20 % volatility).
        sigma: volatility of variance, > 0.
        rho: correlation of price and variance shocks, in [-1, 1].
        mu: drift of the price.

    Raises:
        ValueError: a parameter is not finite or lies outside its range.
    """

    s0: float = 100.0
    v0: float = 0.04
    kappa: float = 40.0
    theta: float = 0.04
    sigma: float = 1.4
    rho: float = -0.7
    mu: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not np.isfinite(value):
                raise ValueError(f"{field.name} must be finite, got {value}")
        for name in ("s0", "kappa", "theta", "sigma"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.v0 < 0:
            raise ValueError(f"v0 (a variance) must not be negative, got {self.v0}")
        if abs(self.rho) > 1:
            raise ValueError(f"rho must lie in [-1, 1], got {self.rho}")

    @property
    def feller(self) -> bool:
        """True if ``2 kappa theta >= sigma**2``, so that the variance never touches zero."""
        return 2 * self.kappa * self.theta >= self.sigma**2


@dataclass(frozen=True)
class HestonPaths:
    """Simulated paths: ``price`` and ``variance`` (per year), each (n_paths, n_steps + 1)."""

    price: np.ndarray
    variance: np.ndarray


def simulate_heston(
    params: HestonParams,
    n_paths: int,
    n_steps: int,
    dt: float,
    *,
    scheme: str = "exact-variance",
    seed: int,
    v0: np.ndarray | None = None,
) -> HestonPaths:
    """Simulate Heston paths in float64 (chapter 01).

    Args:
        params: the model, per year.
        n_paths: number of independent paths.
        n_steps: number of steps.
        dt: length of a step in years (one 5-minute bar is ``1 / BARS_PER_YEAR``).
        scheme: ``"qe-m"`` (Andersen 2008) or ``"exact-variance"`` (non-central chi-square).
        seed: seed of the random draws; the same seed gives the same paths.
        v0: starting variance of each path (n_paths,), ``params.v0`` for all if None.

    Returns:
        ``HestonPaths`` of shape (n_paths, n_steps + 1) each.

    Raises:
        ValueError: a size, ``dt`` or ``scheme`` that cannot be simulated.
    """
    _check_sizes(n_paths, n_steps, dt)
    rng = np.random.default_rng(seed)
    variance = simulate_variance(params, n_paths, n_steps, dt, scheme=scheme, rng=rng, v0=v0)
    shocks = rng.standard_normal((n_paths, n_steps))
    log_return = log_returns(params, variance, dt, shocks, scheme=scheme)
    log_price = np.log(params.s0) + np.concatenate(
        [np.zeros((n_paths, 1)), log_return.cumsum(axis=1)], axis=1
    )
    return HestonPaths(price=np.exp(log_price), variance=variance)


def simulate_variance(
    params: HestonParams,
    n_paths: int,
    n_steps: int,
    dt: float,
    *,
    scheme: str = "exact-variance",
    rng: np.random.Generator,
    v0: np.ndarray | None = None,
) -> np.ndarray:
    """Variance paths alone, (n_paths, n_steps + 1); arguments as in ``simulate_heston``."""
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {SCHEMES}, got {scheme!r}")
    step = _step_qe if scheme == "qe-m" else _step_exact
    v = np.full(n_paths, params.v0) if v0 is None else np.asarray(v0, dtype=np.float64)
    if v.shape != (n_paths,) or not (np.isfinite(v).all() and (v >= 0).all()):
        raise ValueError(f"v0 must hold {n_paths} finite variances >= 0, got shape {v.shape}")
    variance = np.empty((n_steps + 1, n_paths))
    variance[0] = v
    for t in range(n_steps):
        variance[t + 1] = step(params, variance[t], dt, rng)
    return np.ascontiguousarray(variance.T)


def stationary_variance(params: HestonParams, n_paths: int, seed: int) -> np.ndarray:
    """Draws (n_paths,) from the stationary law of v: Gamma(2 kappa theta / sigma^2)."""
    shape = 2 * params.kappa * params.theta / params.sigma**2
    return np.random.default_rng(seed).gamma(shape, params.theta / shape, n_paths)


def log_returns(
    params: HestonParams,
    variance: np.ndarray,
    dt: float,
    shocks: np.ndarray,
    *,
    scheme: str = "exact-variance",
) -> np.ndarray:
    """Log returns per step given the variance path: Andersen (2008), Eq. 33 with K0* of Eq. 35.

    Args:
        params: the model.
        variance: (n_paths, n_steps + 1), per year.
        dt: step in years.
        shocks: (n_paths, n_steps) standard normal draws of the part of the price noise that
            is independent of the variance. An edge acts here, so it leaves v untouched.
        scheme: the one that made ``variance``; it decides E[exp(A v')] in the correction.

    Returns:
        (n_paths, n_steps) log returns.
    """
    v, v_next = variance[:, :-1], variance[:, 1:]
    k1, k2, k34 = _price_coefficients(params, dt)
    a = k2 + 0.5 * k34
    log_mgf = _log_mgf_qe if scheme == "qe-m" else _log_mgf_exact
    k0 = -log_mgf(params, v, dt, a) - (k1 + 0.5 * k34) * v
    return params.mu * dt + k0 + k1 * v + k2 * v_next + np.sqrt(k34 * (v + v_next)) * shocks


def _check_sizes(n_paths: int, n_steps: int, dt: float) -> None:
    if n_paths < 1 or n_steps < 1:
        raise ValueError(f"n_paths and n_steps must be at least 1, got {n_paths} and {n_steps}")
    if not (np.isfinite(dt) and dt > 0):
        raise ValueError(f"dt must be a positive number of years, got {dt}")


def _price_coefficients(p: HestonParams, dt: float) -> tuple[float, float, float]:
    """K1, K2 and K3 = K4 of Andersen (2008) with central weights gamma1 = gamma2 = 1/2."""
    k1 = 0.5 * dt * (p.kappa * p.rho / p.sigma - 0.5) - p.rho / p.sigma
    k2 = 0.5 * dt * (p.kappa * p.rho / p.sigma - 0.5) + p.rho / p.sigma
    return k1, k2, 0.5 * dt * (1 - p.rho**2)


def _step_exact(p: HestonParams, v: np.ndarray, dt: float, rng: np.random.Generator) -> np.ndarray:
    """v' = c * chi2'(d, v e^{-kappa dt} / c): Cox, Ingersoll and Ross (1985)."""
    c, d, decay = _chi_square(p, dt)
    return c * rng.noncentral_chisquare(d, v * decay / c)


def _chi_square(p: HestonParams, dt: float) -> tuple[float, float, float]:
    decay = np.exp(-p.kappa * dt)
    c = p.sigma**2 * (1 - decay) / (4 * p.kappa)
    return c, 4 * p.kappa * p.theta / p.sigma**2, decay


def _log_mgf_exact(p: HestonParams, v: np.ndarray, dt: float, a: float) -> np.ndarray:
    """log E[exp(a v') | v] of the scaled non-central chi-square."""
    c, d, decay = _chi_square(p, dt)
    room = 1 - 2 * c * a
    if room <= 0:
        raise ValueError(f"dt = {dt} is too long: E[S] is infinite for these parameters")
    return v * decay * a / room - 0.5 * d * np.log(room)


def _qe_moments(p: HestonParams, v: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray]:
    """Conditional mean m and psi = variance / m^2: Andersen (2008), Eqs. 17-19."""
    decay = np.exp(-p.kappa * dt)
    mean = p.theta + (v - p.theta) * decay
    var = v * p.sigma**2 * decay * (1 - decay) / p.kappa
    var = var + p.theta * p.sigma**2 * (1 - decay) ** 2 / (2 * p.kappa)
    return mean, var / mean**2


def _qe_quadratic(mean: np.ndarray, psi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a and b^2 of the branch v' = a (b + Z)^2: Andersen (2008), Eqs. 27-28."""
    inv = 2 / np.minimum(psi, PSI_SWITCH)
    b2 = inv - 1 + np.sqrt(inv) * np.sqrt(inv - 1)
    return mean / (1 + b2), b2


def _qe_exponential(mean: np.ndarray, psi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mass p at zero and rate beta of the exponential tail: Andersen (2008), Eqs. 29-30."""
    mass = np.maximum((psi - 1) / (psi + 1), 0.0)
    return mass, (1 - mass) / mean


def _step_qe(p: HestonParams, v: np.ndarray, dt: float, rng: np.random.Generator) -> np.ndarray:
    mean, psi = _qe_moments(p, v, dt)
    z, u = rng.standard_normal(v.shape), rng.random(v.shape)
    a, b2 = _qe_quadratic(mean, psi)
    mass, beta = _qe_exponential(mean, psi)
    tail = np.where(u > mass, np.log((1 - mass) / (1 - u)) / beta, 0.0)
    return np.where(psi <= PSI_SWITCH, a * (np.sqrt(b2) + z) ** 2, tail)


def _log_mgf_qe(p: HestonParams, v: np.ndarray, dt: float, a: float) -> np.ndarray:
    """log E[exp(a v') | v] of the QE scheme: Andersen (2008), Propositions 9 and 10."""
    mean, psi = _qe_moments(p, v, dt)
    qa, b2 = _qe_quadratic(mean, psi)
    mass, beta = _qe_exponential(mean, psi)
    quadratic, exponential = psi <= PSI_SWITCH, psi > PSI_SWITCH
    if (quadratic & (2 * a * qa >= 1)).any() or (exponential & (a >= beta)).any():
        raise ValueError(f"dt = {dt} is too long: E[S] is infinite for these parameters")
    room = np.where(quadratic, 1 - 2 * a * qa, 1.0)
    gap = np.where(exponential, beta - a, beta)
    return np.where(
        quadratic,
        a * b2 * qa / room - 0.5 * np.log(room),
        np.log(mass + beta * (1 - mass) / gap),
    )
