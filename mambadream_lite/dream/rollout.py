"""Dreams: the model's own samples fed back to it, tick after tick (chapter 05).

Watch a real market until now, copy the hidden state N times, sample the next tick of each,
feed it back. The state has constant size, so tick 1,000 of a dream costs what tick 1 did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mambadream_lite.market.features import (
    VELOCITY,
    VOLATILITY,
    Market,
    bar_extremes,
    check_features,
)
from mambadream_lite.model.heads import MixtureOfGaussians
from mambadream_lite.model.mamba import MambaState
from mambadream_lite.model.world_model import Hidden, MambaWorldModel

CHUNK = 1024  # dreams advanced together: their states fit the memory that a CPU reuses

Halt = Callable[[Tensor, MixtureOfGaussians], Tensor]
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
        hidden = tuple(MambaState(f(s.conv), f(s.ssm)) for s in self.hidden)
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
def observe(model: MambaWorldModel, context: Market | Tensor) -> Belief:
    """Take the ticks of a context into the model's state (chapter 05).

    Args:
        model: the world model.
        context: a ``Market``, or raw features (B, T, F); at least ``d_conv`` ticks.

    Raises:
        ValueError: wrong features or bar length, values that are not finite, too few ticks, a gap.
    """
    if isinstance(context, Market):
        trained, given = float(model.bar), context.bar
        if abs(given / trained - 1) > 1e-6:
            raise ValueError(
                f"context has bars of {given:.6g} years, the model was trained on {trained:.6g}"
            )
        features, log_price = context.without_gaps("context").features, context.price[:, -1].log()
    else:
        features, log_price = context, torch.zeros(len(context), dtype=torch.float64)
    check_features(features, "context")
    least = model.blocks[0].d_conv
    if features.ndim != 3 or features.shape[1] < least:
        raise ValueError(
            f"context must have shape (B, T, F) with T >= {least}, got {tuple(features.shape)}"
        )
    device = model.feature_mean.device
    features = features.to(device)
    _, _, hidden = model(features[:, :-1], action=_no_action(model, features[:, :-1]))
    return Belief(hidden, features[:, -1], log_price.to(device))


@torch.no_grad()
def advance(model: MambaWorldModel, belief: Belief, tick: Tensor, log_return: Tensor) -> Belief:
    """Take one more real tick (N, F) and its log return (N,) into the belief, at O(1) cost."""
    action = _no_action(model, belief.features)
    _, _, hidden = model(belief.features, belief.hidden, action)
    return Belief(hidden, tick, belief.log_price + log_return)


@torch.no_grad()
def dream(
    model: MambaWorldModel,
    context: Market | Tensor | Belief,
    *,
    n_dreams: int,
    horizon: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    actions: Actions | None = None,
    halt: Halt | None = None,
) -> Dream:
    """Dream ``n_dreams`` futures of each context (chapter 05).

    Args:
        model: the world model.
        context: where to start from: a ``Market``, raw features (B, T, F), or a ``Belief``.
        n_dreams: futures of each of the B contexts; N = B * n_dreams, context-major.
        horizon: ticks to dream, H.
        generator: the same generator state gives the same dreams.
        temperature: see ``MixtureOfGaussians.sample``.
        actions: for a model with ``d_action > 0``, (N, H, A) or a function of the features
            (N, F) and the tick's number that returns (N, A).
        halt: called before each tick with the features (N, F) and the law of the next ones;
            where it returns True the dream counts as over. The tensors keep their shape.

    Raises:
        ValueError: a horizon or number of dreams below 1, or actions that the model does not
            take.
    """
    for name, value in (("n_dreams", n_dreams), ("horizon", horizon)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if (actions is not None) != bool(model.config["d_action"]):
        raise ValueError(
            "actions must be given if and only if the model has d_action > 0 (it has "
            f"{model.config['d_action']}); a small trader's orders move nothing: replay them"
        )
    belief = context if isinstance(context, Belief) else observe(model, context)
    belief = belief.fork(n_dreams)
    n = len(belief.features)
    if isinstance(actions, Tensor) and actions.shape[:2] != (n, horizon):
        raise ValueError(f"actions must begin ({n}, {horizon}), got {tuple(actions.shape)}")
    parts = []
    for start in range(0, n, CHUNK):
        rows = slice(start, min(start + CHUNK, n))
        part = belief.take(rows)
        chosen = actions[rows] if isinstance(actions, Tensor) else actions
        parts.append(_roll(model, part, horizon, generator, temperature, chosen, halt))
    return Dream(*(torch.cat([getattr(p, f) for p in parts]) for f in Dream.__dataclass_fields__))


def _roll(
    model: MambaWorldModel,
    belief: Belief,
    horizon: int,
    generator: torch.Generator,
    temperature: float,
    actions: Actions | None,
    halt: Halt | None,
) -> Dream:
    """The generative loop, for dreams that fit one chunk."""
    x, hidden = belief.features, belief.hidden
    alive = torch.ones(len(x), dtype=torch.bool, device=x.device)
    features, rewards, risks, lives = [], [], [], []
    for h in range(horizon):
        action = actions[:, h] if isinstance(actions, Tensor) else actions and actions(x, h)
        law, reward, hidden = model(x, hidden, action)
        if halt is not None:
            alive = alive & ~halt(x, law)
        x = law.sample(generator=generator, temperature=temperature)
        features.append(x)
        rewards.append(reward)
        risks.append(law.stddev[:, VELOCITY] * model.velocity_unit)
        lives.append(alive)
    ticks = torch.stack(features, dim=1)  # (N, H, F)
    log_return = ticks[..., VELOCITY].double() * model.velocity_unit
    log_price = belief.log_price.unsqueeze(1) + torch.cat(
        [log_return.new_zeros(len(x), 1), log_return.cumsum(1)], dim=1
    )
    variance = (2 * ticks[..., VOLATILITY].double()).exp() * float(model.bar)
    u = 1 - torch.rand(
        2, *variance.shape, generator=generator, device=x.device, dtype=torch.float64
    )
    up, down = bar_extremes(log_return, variance, u[0], u[1])
    return Dream(
        start=belief.features,
        features=ticks,
        reward=torch.stack(rewards, dim=1),
        risk=torch.stack(risks, dim=1),
        alive=torch.stack(lives, dim=1),
        log_price=log_price,
        high=(log_price[:, :-1] + up).exp(),
        low=(log_price[:, :-1] + down).exp(),
    )


@torch.no_grad()
def watch(model: MambaWorldModel, market: Market, warmup: int) -> Dream:
    """A real market as the model sees it: same fields as a dream, but every tick happened.

    Args:
        model: the world model.
        market: B paths of T ticks.
        warmup: ticks that only fill the model's state, >= 1; H = T - warmup remain.

    Raises:
        ValueError: ``warmup`` outside 1 to T - 1, or a market with a gap.
    """
    n_ticks = market.without_gaps("market").features.shape[1]
    if not 1 <= warmup < n_ticks:
        raise ValueError(f"warmup must lie between 1 and {n_ticks - 1} ticks, got {warmup}")
    x = market.features.to(model.feature_mean.device)
    law, reward, _ = model(x[:, :-1], action=_no_action(model, x[:, :-1]))
    return foreseen(market, reward, law.stddev[..., VELOCITY] * model.velocity_unit, warmup)


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


def _no_action(model: MambaWorldModel, x: Tensor) -> Tensor | None:
    """Zeros for ticks on which nobody acted, or None where the model takes no action."""
    size = model.config["d_action"]
    return x.new_zeros(*x.shape[:-1], size) if size else None
