"""What a planner wants of its futures, and what it answers (chapter 10)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

LEAST = 1e-3  # an account below a thousandth of its start counts as that
Z95 = 1.959964  # of a 95 % interval

Action = float | tuple[float, float]


@dataclass(frozen=True)
class Objective:
    """What the planner wants of N futures.

    Attributes:
        kind: ``"log growth"``, which grows an account fastest (Kelly, 1956), or ``"mean"``, the
            mean profit, which always takes the most leverage that it is allowed.
        cvar_weight: price of the mean of the worst futures, the conditional value at risk.
        cvar_share: how many are the worst, in (0, 1].
        max_ruin: share of futures that may end in liquidation; above it an action is worth -inf.

    Raises:
        ValueError: another kind, or a number outside its range.
    """

    kind: str = "log growth"
    cvar_weight: float = 0.0
    cvar_share: float = 0.05
    max_ruin: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("log growth", "mean"):
            raise ValueError(f'kind must be "log growth" or "mean", got {self.kind!r}')
        if not (self.cvar_weight >= 0 and 0 < self.cvar_share <= 1 and 0 <= self.max_ruin <= 1):
            raise ValueError(
                "cvar_weight must not be negative, cvar_share lie in (0, 1] and max_ruin in "
                f"[0, 1], got {self.cvar_weight}, {self.cvar_share}, {self.max_ruin}"
            )

    def value(self, growth: Tensor) -> tuple[Tensor, Tensor]:
        """Values (...) of log growths (..., N), and their standard errors from N futures.

        An action with a future that is not a number is worth -inf: a broken future must never
        beat a losing one.
        """
        floored = growth.clamp(min=math.log(LEAST))
        gain = floored if self.kind == "log growth" else growth.expm1()
        value, error = gain.mean(-1), gain.std(-1) / gain.shape[-1] ** 0.5
        if self.cvar_weight:
            value = value + self.cvar_weight * worst_mean(gain, self.cvar_share)
        ruined = (growth == -torch.inf).double().mean(-1)
        refused = growth.isnan().any(-1) | (ruined > self.max_ruin)
        return torch.where(refused, -torch.inf, value), error


def worst_mean(gain: Tensor, share: float) -> Tensor:
    """Mean (...) of the worst ``share`` of gains (..., N): minus the conditional value at risk."""
    n = max(1, round(share * gain.shape[-1]))
    return gain.sort(-1).values[..., :n].mean(-1)


@dataclass(frozen=True)
class Decision:
    """What the planner chose, and why. A is the number of actions scored, on the same futures.

    Attributes:
        action: leverage to hold over the next tick; with contracts the pair of both.
        actions: (A,) leverages that were scored, or (A, 2) with contracts.
        value: (A,) of the objective over the horizon, net of costs; -inf where it is refused.
        standard_error: (A,) of ``value``: Monte Carlo error only, not the model's.
        prob_profit: (A,) share of futures in which the action ends above where it began, net.
        prob_profit_error: (A,) standard error of ``prob_profit``, Monte Carlo error only.
        mean: (A,) mean profit as a fraction of equity.
        cvar: (A,) mean loss in the worst 5 % of futures, a fraction of equity.
        ruined: (A,) share of futures that end in liquidation.
        base_rate: (A,) share of stretches of the past in which the action would have ended in
            profit; None if the planner was given no past.
        alive: how many futures were believed to the horizon.
        n_futures, horizon: how many, and how many ticks each.
        plan: (H, 2) the sequence whose first step ``action`` is, if one was searched for and
            beat every constant action on futures that it had not seen.
        plan_value: of that sequence, on those futures.
    """

    action: Action
    actions: Tensor
    value: Tensor
    standard_error: Tensor
    prob_profit: Tensor
    prob_profit_error: Tensor
    mean: Tensor
    cvar: Tensor
    ruined: Tensor
    base_rate: Tensor | None
    alive: int
    n_futures: int
    horizon: int
    plan: Tensor | None = None
    plan_value: float | None = None

    def of(self, action: Action) -> int:
        """Index of a scored action.

        Raises:
            ValueError: it was not scored.
        """
        apart = self.actions - torch.tensor(action, dtype=self.actions.dtype)
        apart = apart.abs() if self.actions.ndim == 1 else apart.abs().amax(1)
        index = int(apart.argmin())
        if apart[index] > 1e-9:
            raise ValueError(f"action {action} was not scored; there are {self.actions.tolist()}")
        return index

    def interval(self, action: Action) -> tuple[float, float]:
        """95 % interval of the probability of profit (Wilson, 1927): Monte Carlo error only."""
        n, p = self.n_futures, self.prob_profit[self.of(action)].item()
        middle = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
        half = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))
        return middle - half, middle + half

    def table(self) -> pd.DataFrame:
        """One row an action: growth, its error, profit, risk and base rate."""
        import pandas as pd  # the dreaming path runs without it

        pairs = self.actions if self.actions.ndim == 2 else self.actions[:, None]
        columns = {
            "action": [" / ".join(f"{x:+g}x" for x in pair) for pair in pairs.tolist()],
            "value (bp)": (1e4 * self.value).tolist(),
            "standard error (bp)": (1e4 * self.standard_error).tolist(),
            "P(profit)": self.prob_profit.tolist(),
            "mean profit (bp)": (1e4 * self.mean).tolist(),
            "CVaR 5 % (bp)": (1e4 * self.cvar).tolist(),
            "ruined": self.ruined.tolist(),
        }
        if self.base_rate is not None:
            columns["base rate"] = self.base_rate.tolist()
        return pd.DataFrame(columns).set_index("action")

    def _repr_html_(self) -> str:
        shown = self.table()
        chosen = self._name()
        shown.insert(0, "", ["chosen" if name == chosen else "" for name in shown.index])
        formats = {c: "{:.1%}".format for c in ("P(profit)", "ruined", "base rate")}
        bp = "{:.2f}".format
        formats |= {c: bp for c in shown.columns if c.endswith("(bp)")}
        return f"<p>{self._headline()}</p>" + shown.to_html(formatters=formats, border=0)

    def __str__(self) -> str:
        rows = [self._headline()]
        rows.append("leverage   growth (bp)   standard error   P(profit)")
        pairs = self.actions if self.actions.ndim == 2 else self.actions[:, None]
        for i, pair in enumerate(pairs.tolist()):
            name = " / ".join(f"{x:+g}x" for x in pair)
            mark = "*" if name == self._name() else " "
            growth = f"{1e4 * self.value[i]:11.2f}  {1e4 * self.standard_error[i]:15.2f}"
            if not self.value[i].isfinite():
                growth = f"{'-inf':>11}  {'some are ruined':>15}"
            rows.append(f"{name:>8}{mark}  {growth}  {self.prob_profit[i]:10.1%}")
        return "\n".join(rows)

    def _name(self) -> str:
        pair = self.action if isinstance(self.action, tuple) else (self.action,)
        return " / ".join(f"{x:+g}x" for x in pair)

    def _headline(self) -> str:
        ended = self.n_futures - self.alive
        halted = f", {ended:,} of them halted" if ended else ""
        head = f"{self.n_futures:,} futures of {self.horizon} ticks{halted}"
        return f"{head}; chosen: {self._name()}"
