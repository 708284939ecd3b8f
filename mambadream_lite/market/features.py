"""The six features of a tick, the `Market` that holds them, and the `Scaler` (chapter 01).

Time convention, everywhere: ``features[:, t]`` describes bar t, the move from
``price[:, t]`` to ``price[:, t + 1]``. It is known when bar t has closed. A decision taken
then is filled at the open of bar t + 1 and earns bar t + 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

FEATURES = ("velocity", "volatility", "imbalance", "log_spread", "log_volume", "signed_flow")
VELOCITY, VOLATILITY, IMBALANCE = 0, 1, 2

REFERENCE_VOLATILITY = 0.2  # per year; what one unit of velocity, spread and volume refers to


@dataclass(frozen=True)
class Market:
    """Ticks of one or more paths with their features, simulated or real (chapter 01).

    Attributes:
        features: (B, T, 6) float32, columns as ``FEATURES``, raw units.
        price: (B, T + 1) float64; bar t moves from ``price[:, t]`` to ``price[:, t + 1]``.
        high, low: (B, T) float64, extremes of each bar.
        bar: length of a bar in years.
        time: (T,) labels of the bars: datetime64 for history, bar numbers for a simulation.
        names: the features' names, in column order.
        proxies: names of those features that stand in for something not observed.
        gap: (T,) bool, True where bar t does not follow directly on bar t - 1; None is no gap.
            The price may jump there: ``log_return`` holds what happened in between, velocity
            does not.
        variance: (B, T + 1) latent variance per year where it is known, else None.

    Raises:
        ValueError: shapes that do not agree, values that are not finite, low above high.
    """

    features: Tensor
    price: Tensor
    high: Tensor
    low: Tensor
    bar: float
    time: np.ndarray
    names: tuple[str, ...] = FEATURES
    proxies: tuple[str, ...] = ()
    gap: np.ndarray | None = field(default=None, repr=False)
    variance: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_features(self.features, "features")
        n_paths, n_ticks, _ = self.features.shape
        for name, shape in (
            ("price", (n_paths, n_ticks + 1)),
            ("high", (n_paths, n_ticks)),
            ("low", (n_paths, n_ticks)),
        ):
            got = tuple(getattr(self, name).shape)
            if got != shape:
                raise ValueError(f"{name} must have shape {shape}, got {got}")
        if not (self.low > 0).all() or not (self.low <= self.high).all():
            raise ValueError("low must be positive and nowhere above high")
        if not torch.isfinite(self.price).all() or not (self.price > 0).all():
            raise ValueError("price must be finite and positive")
        if self.gap is not None and (self.gap.shape != (n_ticks,) or self.gap.dtype != bool):
            raise ValueError(f"gap must be bool of shape {(n_ticks,)}, got {self.gap.shape}")

    @property
    def log_return(self) -> Tensor:
        """(B, T) log return of each bar."""
        return self.price.log().diff(dim=1)

    @property
    def velocity_unit(self) -> float:
        """Log return that is one unit of velocity: 20 % a year, scaled to one bar."""
        return velocity_unit(self.bar)

    def free_starts(self, length: int) -> np.ndarray:
        """Bars from which a window of ``length`` bars crosses no gap, ascending."""
        n_ticks = self.features.shape[1]
        starts = np.arange(max(n_ticks - length + 1, 0))
        if self.gap is None:
            return starts
        passed = self.gap.cumsum()
        return starts[passed[starts + length - 1] == passed[starts]]

    def pieces(self) -> list[Market]:
        """The market cut at its gaps: stretches of bars that follow directly on each other."""
        if self.gap is None:
            return [self]
        n_ticks = self.features.shape[1]
        edges = [0, *(np.flatnonzero(self.gap[1:]) + 1), n_ticks]
        cuts = (self.window(int(a), int(b)) for a, b in zip(edges, edges[1:], strict=False))
        return [replace(piece, gap=None) for piece in cuts]

    def without_gaps(self, name: str) -> Market:
        """Itself; a ``ValueError`` that calls it ``name`` and dates the first gap if it has one."""
        if self.gap is not None and self.gap[1:].any():
            when = self.time[1 + int(self.gap[1:].argmax())]
            raise ValueError(
                f"{name} has a gap before {when}: no forecast crosses it, take one of "
                f"{name}.pieces()"
            )
        return self

    def window(self, start: int, stop: int) -> Market:
        """Bars ``start`` to ``stop`` (exclusive) of every path, as a view; gaps stay marked."""
        n_ticks = self.features.shape[1]
        if not 0 <= start < stop <= n_ticks:
            raise ValueError(f"window [{start}, {stop}) does not lie in 0 to {n_ticks} bars")
        bars, edges = slice(start, stop), slice(start, stop + 1)
        return replace(
            self,
            features=self.features[:, bars],
            price=self.price[:, edges],
            high=self.high[:, bars],
            low=self.low[:, bars],
            time=self.time[bars],
            gap=None if self.gap is None else self.gap[bars],
            variance=None if self.variance is None else self.variance[:, edges],
        )

    def windows(self, paths: np.ndarray, starts: np.ndarray, length: int) -> Market:
        """Cut ``length`` bars out of path ``paths[i]`` from bar ``starts[i]``, as path i.

        Times are counted from the start of each window.

        Raises:
            ValueError: no window, or one that leaves the market or crosses a gap.
        """
        n_ticks = self.features.shape[1]
        if len(starts) == 0 or starts.min() < 0 or starts.max() + length > n_ticks:
            raise ValueError(f"starts must lie in 0 to {n_ticks - length} and not be empty")
        crossing = ~np.isin(starts, self.free_starts(length))
        if crossing.any():
            raise ValueError(
                f"starts: the window of {length} bars from bar {starts[crossing][0]} crosses a gap"
            )

        def cut(z: Tensor, n: int) -> Tensor:
            return torch.stack([z[p, s : s + n] for p, s in zip(paths, starts, strict=True)])

        return replace(
            self,
            features=cut(self.features, length),
            price=cut(self.price, length + 1),
            high=cut(self.high, length),
            low=cut(self.low, length),
            time=np.arange(length),
            gap=None,
            variance=None if self.variance is None else cut(self.variance, length + 1),
        )

    def between(self, start: str, stop: str) -> Market:
        """Bars dated in [``start``, ``stop``), for a market whose time is dates."""
        if not np.issubdtype(self.time.dtype, np.datetime64):
            raise TypeError("between needs a market with dates; use window for a simulated one")
        first, last = np.searchsorted(self.time, np.array([start, stop], dtype=self.time.dtype))
        return self.window(int(first), int(last))


def check_features(x: Tensor, name: str) -> None:
    """Raise a ``ValueError`` that names ``x`` unless it is finite with shape (..., T, 6)."""
    if x.ndim < 2 or x.shape[-1] != len(FEATURES):
        raise ValueError(
            f"{name} must end in {len(FEATURES)} features {FEATURES}, got shape {tuple(x.shape)}"
        )
    if x.numel() and not torch.isfinite(torch.stack(x.aminmax())).all():  # no copy of a large x
        bad = ~torch.isfinite(x)
        where = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"{name} must be finite: {int(bad.sum())} values are not, the first at {where} "
            f"({FEATURES[where[-1]]}); drop or repair these ticks first"
        )


def velocity_unit(bar: float) -> float:
    """Log return that one unit of velocity stands for at bars of ``bar`` years."""
    return REFERENCE_VOLATILITY * float(np.sqrt(bar))


class Scaler:
    """Per-feature mean and standard deviation, fitted on training data only (chapter 04).

    ``fit`` takes a ``Market`` or a tensor (..., 6) and returns the scaler itself.
    """

    def __init__(self) -> None:
        self.mean: Tensor | None = None
        self.std: Tensor | None = None

    def fit(self, train: Market | Tensor) -> Scaler:
        """Estimate mean and sd (6,) of each feature; a constant feature is refused."""
        x = train.features if isinstance(train, Market) else train
        check_features(x, "train")
        flat = x.reshape(-1, x.shape[-1]).double()
        mean, std = flat.mean(0), flat.std(0)
        if not (std > 0).all():
            raise ValueError(f"train has a constant feature: {FEATURES[int(std.argmin())]}")
        self.mean, self.std = mean.float(), std.float()
        return self

    def transform(self, x: Tensor) -> Tensor:
        """Raw units to zero mean and unit variance."""
        mean, std = self._fitted()
        return (x - mean) / std

    def inverse(self, x: Tensor) -> Tensor:
        """Zero mean and unit variance back to raw units."""
        mean, std = self._fitted()
        return x * std + mean

    def _fitted(self) -> tuple[Tensor, Tensor]:
        if self.mean is None or self.std is None:
            raise ValueError("the scaler has not been fitted: call fit(train) first")
        return self.mean, self.std


def bar_extremes(
    log_return: Tensor, variance: Tensor, u_high: Tensor, u_low: Tensor
) -> tuple[Tensor, Tensor]:
    """High and low of a bar, as log distance from its open, given how it ended (chapter 07).

    The maximum of a Brownian bridge from 0 to r with total variance s2 exceeds m with
    probability exp(-2 m (m - r) / s2); we invert that law. High and low are drawn
    independently given r, which is exact for each of them. The simulator and the dream both
    call this function, so that a dream is liquidated by the same rule as the market.

    Args:
        log_return: r of the bar.
        variance: s2 of the bar (not per year), same shape.
        u_high, u_low: uniform draws in (0, 1], same shape.
    """
    reach = log_return.square() - 2 * variance * torch.stack([u_high, u_low]).log()
    root = reach.sqrt()
    return 0.5 * (log_return + root[0]), 0.5 * (log_return - root[1])
