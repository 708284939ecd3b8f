"""What a plan is worth: any number of plans, traded along the same futures (chapter 10).

A plan says what to hold before each tick of the horizon: a tensor (P, H, 2) of leverages, of the
asset and of the volatility contract. Three scorers, from the plainest to the least noisy:
``held_to_horizon`` buys once and waits; ``followed`` lets the account itself live through every
future; ``expected_growth`` takes the model's expectation of each tick instead of the tick drawn.

A future that was halted can lose, but not win: its position is closed at its cost, and an early
end never pays.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mambadream_lite.dream.quote import Quoted
from mambadream_lite.dream.rollout import Dream
from mambadream_lite.market.account import BP, Account

Position = float | Tensor  # leverage of the asset held now: one number, or (N,)


def constant(actions: Tensor, horizon: int) -> Tensor:
    """Plans (A, H, 2) that hold one action each: leverages (A,), or (A, 2) with contracts."""
    pairs = actions if actions.ndim == 2 else torch.stack([actions, 0 * actions], dim=1)
    return pairs[:, None, :].expand(-1, horizon, -1)


def held_to_horizon(
    futures: Dream, actions: Tensor, position: Position, account: Account
) -> Tensor:
    """Wealth (A, N) at the horizon of one unit that moves from ``position`` to each action now.

    The units bought are kept: leverage drifts with the price, and only the first trade costs.
    A future that touches the liquidation price ends at 0; one that is not a number, at NaN.
    """
    start = futures.log_price[:, :1].exp()
    last = futures.alive.sum(1, keepdim=True)  # (N, 1) ticks until a halt, or the horizon
    end = (futures.log_price.gather(1, last).exp() / start).T  # (1, N)
    lowest = torch.where(futures.alive, futures.low / start, torch.inf).amin(1)
    highest = torch.where(futures.alive, futures.high / start, -torch.inf).amax(1)
    last = last.squeeze(1)
    halted = last < futures.horizon
    # before a halt at the first tick nothing is bought: what is held is sold
    leverage = torch.where(last == 0, 0.0, actions.unsqueeze(1))  # (A, N)
    config = account.config
    cost = config.turnover_cost * (leverage - position).abs()
    cost = cost + config.funding * config.bar * last * leverage
    # a flat account feels no price, not even a broken one: staying out can always be chosen
    wealth = (1 - cost) * (1 + torch.where(leverage == 0, 0.0, leverage * (end - 1)))
    closed = wealth * (1 - config.turnover_cost * leverage.abs())
    wealth = torch.where(halted, closed.clamp(max=1.0), wealth)
    gone = (leverage != 0) & account.liquidated(leverage, highest[None], lowest[None])
    return torch.where(gone, 0.0, wealth.clamp(min=0.0))


def followed(futures: Dream, plans: Tensor, position: Position, account: Account) -> Tensor:
    """Wealth (P, N) after each plan was carried out, tick by tick, by the account's own rules.

    The reference: costs, margin and liquidation are ``Account.step``'s. Slow for many plans.

    Raises:
        ValueError: plans for the contract on futures without quotes.
    """
    _check_quotes(futures, plans)
    wealth = []
    for plan in plans.double():
        state = account.open(len(futures), position)
        for h in range(futures.horizon):
            held = torch.where(futures.alive[:, h, None], plan[h], 0.0)  # (N, 2)
            second = {}
            if isinstance(futures, Quoted):
                second = {"contracts": held[:, 1], "payoff": futures.payoff[:, h]}
            opened = futures.log_price[:, h]
            bar = futures.log_price[:, h + 1] - opened
            price = opened.exp()
            high, low = futures.high[:, h] / price, futures.low[:, h] / price
            state = account.step(state, held[:, 0], bar, high, low, **second)
        early = ~futures.alive[:, -1]
        wealth.append(torch.where(early, state.equity.clamp(max=1.0), state.equity))
    return torch.stack(wealth)


def expected_growth(futures: Dream, plans: Tensor, position: Position, account: Account) -> Tensor:
    """Log growth (P, N) of each plan, with the luck of every tick of the asset taken out.

    Along a future the model says, before each tick, what it expects of it: mean m and sd s. The
    log growth of a leverage L over that tick is expected to be L m - L^2 s^2 / 2, the first two
    terms of the logarithm, whatever is then drawn (Rao and Blackwell's trick). Payoffs of the
    contract stay drawn. A future in which the plan is liquidated counts -inf, a broken one NaN.

    Raises:
        ValueError: plans for the contract on futures without quotes.
    """
    _check_quotes(futures, plans)
    config = account.config
    leverage, contracts = plans.double().unbind(-1)  # (P, H)
    alive = futures.alive.double()  # (N, H)
    mean, variance = futures.reward.double(), futures.risk.double().square()
    sound = mean.isfinite() & variance.isfinite() & futures.log_price.diff(dim=1).isfinite()
    mean, variance = (torch.where(sound, z, 0.0) * alive for z in (mean, variance))
    gain = leverage @ mean.T - 0.5 * leverage.square() @ variance.T  # (P, N)

    first = torch.where(futures.alive[:, 0], leverage[:, :1], 0.0)
    turnover = (first - position).abs() + leverage.diff(dim=1).abs() @ alive[:, 1:].T
    ending = alive[:, :-1] - alive[:, 1:]  # 1 in the last tick before a halt
    turnover = turnover + leverage[:, :-1].abs() @ ending.T
    funding = config.funding * config.bar * leverage @ alive.T
    growth = gain + torch.log1p(-(config.turnover_cost * turnover + funding).clamp(max=1.0))

    broken = (~sound & futures.alive).any(1)
    rows = []
    for own, held, options in zip(growth, leverage, contracts, strict=True):
        if isinstance(futures, Quoted) and options.any():
            fee = torch.log1p(-config.contract_fee * BP * options.abs())
            settled = (1 + options * futures.payoff).clamp(min=1e-12).log() + fee
            own = own + (settled * alive).sum(1)
        gone = (_called(futures, held, options, account) & futures.alive).any(1)
        own = torch.where(futures.alive[:, -1], own, own.clamp(max=0.0))
        if held.any() or options.any():
            own = torch.where(gone, -torch.inf, own)
            own = torch.where(broken, torch.nan, own)
        rows.append(own)
    return torch.stack(rows)


def _called(futures: Dream, leverage: Tensor, contracts: Tensor, account: Account) -> Tensor:
    """(N, H) bool: would a plan's account be liquidated in this tick? As ``Account.step``."""
    price = futures.log_price[:, :-1].exp()
    called = account.liquidated(leverage, futures.high / price, futures.low / price, contracts)
    if isinstance(futures, Quoted) and contracts.any():
        ratio = futures.log_price.diff(dim=1).exp()
        growth = 1 + leverage * (ratio - 1) + contracts * futures.payoff
        notional = leverage.abs() * ratio + contracts.abs()
        called = called | (growth <= account.config.maintenance * notional)
    return called


def _check_quotes(futures: Dream, plans: Tensor) -> None:
    if plans[..., 1].any() and not isinstance(futures, Quoted):
        raise ValueError("futures must be from quote(): a plan trades the volatility contract")


def cross_entropy(
    score: Callable[[Tensor], Tensor],
    start: Tensor,
    limit: float,
    *,
    generator: torch.Generator,
    n_rounds: int = 6,
    n_plans: int = 64,
    n_elite: int = 8,
    pieces: int = 4,
    contracts: bool = False,
) -> Tensor:
    """A better sequence than ``start``, by the cross-entropy method (de Boer et al., 2005).

    Draw plans around the best, score them, keep the elite, draw around those. A plan is cut into
    ``pieces`` of constant leverage. The best plan found is returned, ``start`` if none beats it.

    Args:
        score: values (P,) of plans (P, H, 2).
        start: (H, 2), for example the best constant plan.
        limit: leverages stay within +-limit.
        generator: of the plans.
        n_rounds, n_plans, n_elite: of the search.
        pieces: of a plan, at most H.
        contracts: search over the volatility contract too, not over the asset alone.

    Raises:
        ValueError: an elite that is not smaller than the number of plans.
    """
    if not 2 <= n_elite < n_plans:
        raise ValueError(f"n_elite must lie between 2 and n_plans - 1, got {n_elite} of {n_plans}")
    horizon = len(start)
    piece = torch.arange(horizon) * min(pieces, horizon) // horizon  # (H,) which piece a tick is in
    mean = torch.stack([start[piece == k].double().mean(0) for k in range(int(piece[-1]) + 1)])
    wide = mean.abs().amax().clamp(min=0.2 * limit).expand_as(mean)
    best, best_value = start.double(), score(start[None].double())[0]
    for _ in range(n_rounds):
        noise = torch.randn(n_plans, *mean.shape, generator=generator, dtype=torch.float64)
        if not contracts:
            noise[..., 1] = 0.0
        drawn = (mean + wide * noise).clamp(-limit, limit)
        plans = drawn[:, piece]
        value = score(plans)
        order = value.argsort(descending=True)
        if value[order[0]] > best_value:
            best, best_value = plans[order[0]], value[order[0]]
        elite = drawn[order[:n_elite]]
        mean, wide = elite.mean(0), elite.std(0)
    return best
