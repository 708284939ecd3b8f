"""The old forecasters, which a world model has to beat (chapter 02).

Each is fitted on a training market and returns, for another market, the law of the next tick
at every tick: a ``torch`` distribution of batch shape (B, T - 1), to be scored by
``law.log_prob`` like any other. Raw units in and out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.signal import lfilter
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, StudentT

from mambadream_lite.market.features import VELOCITY, VOLATILITY, Market

SPANS = (5, 20, 80)  # ticks of the averages that a HAR regression looks back on
# (alpha, gamma, beta) from which a likelihood is climbed: from one alone it may stop half-way
STARTS = ((0.03, 0.04, 0.92), (0.06, 0.08, 0.85), (0.02, 0.05, 0.954), (0.05, 0.0, 0.949))
MIN_TICKS = 1000  # a fit on less is noise


@dataclass(frozen=True)
class Persistence:
    """Tomorrow is like today: x' = x + e with e Gaussian, all six features.

    ``root`` (6, 6) is the Cholesky factor of the covariance of e.
    """

    root: Tensor

    @classmethod
    def fit(cls, train: Market) -> Persistence:
        """Estimate the covariance of the changes."""
        change = _long_enough(train).diff(dim=1).flatten(0, 1)
        return cls(torch.linalg.cholesky(change.T @ change / len(change)))

    def forecast(self, market: Market) -> Distribution:
        """Law of all six features of the next tick."""
        return MultivariateNormal(market.features[:, :-1].double(), scale_tril=self.root)


@dataclass(frozen=True)
class HarVar:
    """A Gaussian vector autoregression with the long averages of HAR (Corsi, 2009).

    Each feature is regressed on all six and on averages of volatility and velocity over three
    spans. The sd of velocity follows the forecast of volatility.

    Attributes:
        weights: (R, 6) regression coefficients.
        root: (6, 6) Cholesky factor of the residuals' covariance, velocity's in units of the
            forecast volatility.
    """

    weights: Tensor
    root: Tensor

    @classmethod
    def fit(cls, train: Market) -> HarVar:
        """Ordinary least squares, then the covariance of what is left."""
        x = _long_enough(train)
        regressors, target = _averages(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten(0, 1)
        weights = torch.linalg.lstsq(regressors, target).solution
        mean = regressors @ weights
        left = (target - mean) / cls._scale(mean)
        return cls(weights, torch.linalg.cholesky(left.T @ left / len(left)))

    def forecast(self, market: Market) -> MultivariateNormal:
        """Law of all six features of the next tick."""
        mean = _averages(market.features.double())[:, :-1] @ self.weights
        return MultivariateNormal(mean, scale_tril=self._scale(mean)[..., None] * self.root)

    @staticmethod
    def _scale(mean: Tensor) -> Tensor:
        scale = torch.ones_like(mean)
        scale[..., VELOCITY] = mean[..., VOLATILITY].exp()
        return scale


@dataclass(frozen=True)
class Garch:
    """GARCH(1, 1) with Student-t shocks, or GJR with ``gamma`` for falls: velocity alone.

    The law of Bollerslev (1987), and of Glosten, Jagannathan and Runkle (1993):
    s2' = omega + (alpha + gamma [e < 0]) e^2 + beta s2 with e = velocity - mean. ``degrees`` are
    those of the Student law; ``start`` is s2 before the first tick: the training variance, since
    a fit with alpha + beta near 1 has no long-run variance to start from.
    """

    mean: float
    omega: float
    alpha: float
    gamma: float
    beta: float
    degrees: float
    start: float

    @classmethod
    def fit(cls, train: Market, *, asymmetric: bool) -> Garch:
        """Maximum likelihood by ``arch`` on the training paths, end to end."""
        from arch import arch_model  # slow to import, and needed here only

        velocity = _long_enough(train)[..., VELOCITY].flatten().numpy()
        model = arch_model(velocity, p=1, o=int(asymmetric), q=1, dist="t", rescale=False)
        spread, fits = float(velocity.var()), []
        for alpha, gamma, beta in STARTS:
            alpha, gamma = (alpha, gamma) if asymmetric else (alpha + gamma / 2, 0.0)
            omega = (1 - alpha - gamma / 2 - beta) * spread
            weights = [0.0, omega, alpha, *[gamma] * asymmetric, beta, 20.0]
            fits.append(model.fit(starting_values=weights, disp="off", show_warning=False))
        # 8 is SLSQP's word for a hill top that it cannot climb by a smaller step
        fits = [fit for fit in fits if fit.convergence_flag in (0, 8)]
        if not fits:
            raise ValueError(f"train: the GARCH fit converged from none of {len(STARTS)} starts")
        fitted = max(fits, key=lambda fit: fit.loglikelihood)
        names = ("mu", "omega", "alpha[1]", "gamma[1]", "beta[1]", "nu")
        weights = (float(fitted.params.get(name, 0.0)) for name in names)
        return cls(*weights, start=spread)

    def forecast(self, market: Market) -> StudentT:
        """Law of the velocity of the next tick."""
        shock = market.features[..., VELOCITY].double() - self.mean
        gain = self.alpha + self.gamma * (shock < 0)
        drive = self.omega + gain * shock.square()
        state = torch.full((len(shock), 1), self.beta * self.start, dtype=torch.float64)
        variance, _ = lfilter([1.0], [1.0, -self.beta], drive.numpy(), zi=state.numpy())
        shrink = (self.degrees - 2) / self.degrees  # a t has variance v / (v - 2)
        scale = torch.from_numpy(np.sqrt(shrink * variance[:, :-1]))
        return StudentT(self.degrees, self.mean, scale)


def _long_enough(train: Market) -> Tensor:
    if train.features[..., 0].numel() < MIN_TICKS:
        raise ValueError(
            f"train must hold at least {MIN_TICKS} ticks, got {train.features[..., 0].numel()}"
        )
    return train.features.double()


def _averages(x: Tensor) -> Tensor:
    """What is known at each tick (B, T, R): a constant, the features, exponential averages."""
    columns = [torch.ones_like(x[..., :1]), x]
    for span in SPANS:
        keep = 1 - 2 / (span + 1)  # the usual span of an exponential average
        for feature in (VOLATILITY, VELOCITY):
            series = x[..., feature].numpy()
            start = keep * series[:, :1]  # as if the first tick had always been there
            average, _ = lfilter([1 - keep], [1.0, -keep], series, zi=start)
            columns.append(torch.from_numpy(average)[..., None])
    return torch.cat(columns, dim=-1)
