"""Dreams: the model's own samples fed back to it, tick after tick (chapter 05).

Watch a real market until now, copy the hidden state N times, sample the next tick of each,
feed it back. The state has constant size, so tick 1,000 of a dream costs what tick 1 did.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as nnf
from torch import Tensor
from tqdm.auto import tqdm

from mambadream_lite.dream.halt import Halt
from mambadream_lite.dream.noise import Noise, check_room
from mambadream_lite.market.features import (
    VELOCITY,
    VOLATILITY,
    Market,
    bar_extremes,
    check_features,
)
from mambadream_lite.model.ensemble import Ensemble
from mambadream_lite.model.world_model import Hidden, WorldModel

TILE, GPU_TILE = 128, 65_536  # dreams advanced together: a CPU's cache holds 128 states
ROWS = 8  # a tile is filled up to a multiple of this
LONG = 5_000_000  # ticks in all, from which on a progress bar is shown

Actions = Tensor | Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Belief:
    """What the model knows when a tick has closed; a future is forked from it.

    Attributes:
        hidden: the model's state after all ticks but the last.
        features: (N, F) the last tick, raw units, not yet fed to the model.
        log_price: (N,) log price at the close of the last tick.
    """

    hidden: Hidden
    features: Tensor
    log_price: Tensor

    def fork(self, n: int) -> Belief:
        """``n`` copies of each, one after the other (context-major)."""
        return self._map(lambda z: z.repeat_interleave(n, dim=0))

    def take(self, rows: Tensor | slice) -> Belief:
        """The entries ``rows``."""
        return self._map(lambda z: z[rows])

    def _map(self, f: Callable[[Tensor], Tensor]) -> Belief:
        hidden = tuple(type(s)(*map(f, s)) for s in self.hidden)
        return Belief(hidden, f(self.features), f(self.log_price))


@dataclass(frozen=True)
class Dream:
    """N paths of H ticks as the model sees them: dreamt by ``dream`` or real from ``watch``.

    What is indexed h in ``reward`` and ``risk`` is known before tick h, what is indexed h in
    ``features``, ``high`` and ``low`` when it has closed.

    Attributes:
        start: (N, F) the tick before the first, raw units.
        features: (N, H, F) raw units.
        reward: (N, H) expected return of one unit of the asset over tick h, a fraction.
        risk: (N, H) predicted standard deviation of the log return of tick h.
        alive: (N, H) False from the tick on at which the dream was halted.
        log_price: (N, H + 1).
        high, low: (N, H) extremes of each tick, in price.
    """

    start: Tensor
    features: Tensor
    reward: Tensor
    risk: Tensor
    alive: Tensor
    log_price: Tensor
    high: Tensor
    low: Tensor

    def __len__(self) -> int:
        return len(self.features)

    @property
    def horizon(self) -> int:
        """H, in ticks."""
        return self.features.shape[1]


@torch.no_grad()
def observe(model: WorldModel, context: Market | Tensor) -> Belief:
    """Take the ticks of a context into the model's state (chapter 05).

    Args:
        model: the world model.
        context: a ``Market``, or raw features (B, T, F); at least ``d_conv`` ticks.

    Raises:
        ValueError: wrong features or bar length, values that are not finite, too few ticks, a gap.
    """
    return _observe(model, context)


def _observe(model: WorldModel | Ensemble, context: Market | Tensor) -> Belief:
    if isinstance(context, Market):
        market = _readable(model, context, "context")
        features, log_price = market.features, market.price[:, -1].log()
    else:
        features, log_price = context, torch.zeros(len(context), dtype=torch.float64)
    check_features(features, "context")
    least = model.blocks[0].least_context
    if features.ndim != 3 or features.shape[1] < least:
        raise ValueError(
            f"context must have shape (B, T, F) with T >= {least}, got {tuple(features.shape)}"
        )
    device = model.feature_mean.device
    features = features.to(device)
    _, _, hidden = model(features[:, :-1], action=_no_action(model, features[:, :-1]))
    return Belief(hidden, features[:, -1], log_price.to(device))


def _readable(model: WorldModel | Ensemble, market: Market, name: str) -> Market:
    """The market, if its bars are those that the model was trained on, and none is missing."""
    trained, given = float(model.bar), market.bar
    if abs(given / trained - 1) > 1e-6:
        raise ValueError(
            f"{name} has bars of {given:.6g} years, the model was trained on {trained:.6g}"
        )
    return market.without_gaps(name)


@torch.no_grad()
def advance(model: WorldModel, belief: Belief, tick: Tensor, log_return: Tensor) -> Belief:
    """Take one more real tick (N, F) and its log return (N,) into the belief, at O(1) cost."""
    action = _no_action(model, belief.features)
    _, _, hidden = model(belief.features, belief.hidden, action)
    return Belief(hidden, tick, belief.log_price + log_return)


def dream(
    model: WorldModel | Ensemble,
    context: Market | Tensor | Belief,
    *,
    n_dreams: int,
    horizon: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    actions: Actions | None = None,
    halt: Halt | None = None,
    chunk: int | None = None,
    grad: bool = False,
) -> Dream:
    """Dream ``n_dreams`` futures of each context (chapter 05).

    The noise belongs to the dream, not to the order of work: the same generator state gives the
    same dreams to the bit on a CPU, however many are advanced together.

    Args:
        model: the world model, or an ensemble, each of whose members takes in the tick that was
            drawn from all of them.
        context: where to start from: a ``Market``, raw features (B, T, F), or a ``Belief``.
        n_dreams: futures of each of the B contexts; N = B * n_dreams, context-major.
        horizon: ticks to dream, H.
        generator: gives one number, the seed of these dreams' noise.
        temperature: see ``MixtureOfGaussians.sample``.
        actions: for a model with ``d_action > 0``, (N, H, A) or a function of the features
            (N, F) and the tick's number that returns (N, A).
        halt: called before each tick with the features (N, F) and the law of the next ones;
            where it returns True the dream counts as over. The tensors keep their shape.
            ``halt`` and a function for ``actions`` see one chunk at a time.
        chunk: dreams advanced together; None takes what suits the device.
        grad: keep what is needed for gradients through all N dreams (memory grows with H).

    Raises:
        ValueError: a horizon, number of dreams or chunk below 1, or actions that the model does
            not take.
        MemoryError: more dreams than fit, with the number that does.
    """
    device = model.feature_mean.device
    chunk = (TILE if device.type == "cpu" else GPU_TILE) if chunk is None else chunk
    for name, value in (("n_dreams", n_dreams), ("horizon", horizon), ("chunk", chunk)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if (actions is not None) != bool(model.config["d_action"]):
        raise ValueError(
            "actions must be given if and only if the model has d_action > 0 (it has "
            f"{model.config['d_action']}); a small trader's orders move nothing: replay them"
        )
    with torch.set_grad_enabled(grad):
        belief = context if isinstance(context, Belief) else _observe(model, context)
    n = len(belief.features) * n_dreams
    if isinstance(actions, Tensor) and actions.shape[:2] != (n, horizon):
        raise ValueError(f"actions must begin ({n}, {horizon}), got {tuple(actions.shape)}")
    check_room(n, horizon, device)
    noise = Noise.seeded(generator, horizon, belief.features.shape[1], device)
    silent = n * horizon < LONG or bool(os.environ.get("TQDM_DISABLE"))
    whole = None
    with (
        torch.set_grad_enabled(grad),
        tqdm(total=n, desc="dream", unit="dream", disable=silent) as bar,
    ):
        for start in range(0, n, n if grad else chunk):
            rows = torch.arange(start, n if grad else min(start + chunk, n), device=device)
            part = _roll(model, belief, rows, n_dreams, horizon, noise, temperature, actions, halt)
            if len(rows) == n:
                whole = part
            else:
                whole = _empty_like(part, n) if whole is None else whole
                for field in fields(Dream):
                    getattr(whole, field.name)[rows] = getattr(part, field.name)
            bar.update(len(rows))
    if halt is not None and not whole.alive[:, 0].any():
        warnings.warn(
            f"halt: all {n:,} dreams ended before their first tick; loosen its threshold",
            stacklevel=2,
        )
    return whole


def _roll(
    model: WorldModel | Ensemble,
    belief: Belief,
    rows: Tensor,
    n_dreams: int,
    horizon: int,
    noise: Noise,
    temperature: float,
    actions: Actions | None,
    halt: Halt | None,
) -> Dream:
    """The generative loop, for dreams that are advanced together."""
    n = len(rows)
    # the last bits of a matrix product depend on its number of rows: whole eights agree
    padded = torch.cat([rows, rows[-1:].expand(-n % ROWS)])
    belief = belief.take(padded // n_dreams)
    u, normal, extremes = noise.rows(int(rows[0]), n)
    u, normal = nnf.pad(u, (0, -n % ROWS)), nnf.pad(normal, (0, 0, 0, -n % ROWS))
    x, step = belief.features, model.stepper(belief.hidden, horizon)
    alive = torch.ones(n, dtype=torch.bool, device=x.device)
    features, rewards, risks, lives = [], [], [], []
    for h in range(horizon):
        action = None
        if actions is not None:
            action = actions[rows, h] if isinstance(actions, Tensor) else actions(x[:n], h)
            action = nnf.pad(action, (0, 0, 0, -n % ROWS))
        law, reward, risk = step(x, action)
        if halt is not None:
            alive = alive & ~halt(x[:n], law if len(x) == n else law[:n])
        x = law.draw(u[h], normal[h], temperature)
        features.append(x)
        rewards.append(reward)
        risks.append(risk)
        lives.append(alive)
    ticks, reward, risk = (torch.stack(z, dim=1)[:n] for z in (features, rewards, risks))
    log_return = ticks[..., VELOCITY].double() * model.velocity_unit
    log_price = belief.log_price[:n].unsqueeze(1) + torch.cat(
        [log_return.new_zeros(n, 1), log_return.cumsum(1)], dim=1
    )
    variance = (2 * ticks[..., VOLATILITY].double()).exp() * float(model.bar)
    up, down = bar_extremes(log_return, variance, *extremes)
    return Dream(
        start=belief.features[:n],
        features=ticks,
        reward=reward,
        risk=risk,
        alive=torch.stack(lives, dim=1),
        log_price=log_price,
        high=(log_price[:, :-1] + up).exp(),
        low=(log_price[:, :-1] + down).exp(),
    )


def _empty_like(part: Dream, n: int) -> Dream:
    """Room for ``n`` dreams like those of ``part``."""
    values = {f.name: getattr(part, f.name) for f in fields(Dream)}
    return Dream(**{name: z.new_empty(n, *z.shape[1:]) for name, z in values.items()})


@torch.no_grad()
def watch(
    model: WorldModel | Ensemble, market: Market, warmup: int, *, halt: Halt | None = None
) -> Dream:
    """A real market as the model sees it: same fields as a dream, but every tick happened.

    Args:
        model: the world model, or an ensemble.
        market: B paths of T ticks.
        warmup: ticks that only fill the model's state, >= 1; H = T - warmup remain.
        halt: as for ``dream``; but a market goes on, so ``alive`` is False only in the ticks
            before which it returns True: nobody trades in these.

    Raises:
        ValueError: ``warmup`` outside 1 to T - 1, other bars than the model's, or a gap.
    """
    n_ticks = _readable(model, market, "market").features.shape[1]
    if not 1 <= warmup < n_ticks:
        raise ValueError(f"warmup must lie between 1 and {n_ticks - 1} ticks, got {warmup}")
    x = market.features.to(model.feature_mean.device)
    law, reward, _ = model(x[:, :-1], action=_no_action(model, x[:, :-1]))
    path = foreseen(market, reward, law.stddev[..., VELOCITY] * model.velocity_unit, warmup)
    if halt is None:
        return path
    return replace(path, alive=~halt(x[:, :-1], law)[:, warmup - 1 :])


def foreseen(market: Market, reward: Tensor, risk: Tensor, warmup: int) -> Dream:
    """A real market beside any forecast of it, so that policies can ``replay`` it (chapter 02).

    Args:
        market: B paths of T ticks.
        reward, risk: (B, T - 1) expected simple return of bar t + 1, and the sd of its log
            return, as known when bar t has closed.
        warmup: ticks that are left out, >= 1; H = T - warmup remain.
    """
    before = slice(warmup - 1, None)  # the prediction made at tick t is about tick t + 1
    ahead = slice(warmup, None)
    return Dream(
        start=market.features[:, warmup - 1].to(reward.device),
        features=market.features[:, ahead].to(reward.device),
        reward=reward[:, before],
        risk=risk[:, before],
        alive=torch.ones_like(reward[:, before], dtype=torch.bool),
        log_price=market.price[:, ahead].log(),
        high=market.high[:, ahead],
        low=market.low[:, ahead],
    )


def _no_action(model: WorldModel, x: Tensor) -> Tensor | None:
    """Zeros for ticks on which nobody acted, or None where the model takes no action."""
    size = model.config["d_action"]
    return x.new_zeros(*x.shape[:-1], size) if size else None
