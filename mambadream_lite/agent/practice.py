"""Training an agent in dreams: dream, trade, learn, and again (chapter 07)."""

from __future__ import annotations

import torch
from torch import Tensor

from mambadream_lite.agent.ppo import PPO
from mambadream_lite.dream.explosion import end_explosions
from mambadream_lite.dream.halt import Halt
from mambadream_lite.dream.quote import quote
from mambadream_lite.dream.rollout import dream, observe
from mambadream_lite.market.features import Market
from mambadream_lite.model.ensemble import Ensemble
from mambadream_lite.model.world_model import WorldModel


def dream_and_train(
    world_model: WorldModel | Ensemble,
    agent: PPO,
    start_state: Market | Tensor,
    horizon: int = 50,
    *,
    n_dreams: int = 4,
    n_rounds: int = 40,
    n_starts: int = 64,
    n_passes: int = 4,
    halt: Halt | None = None,
    generator: torch.Generator | None = None,
) -> list[float]:
    """Train an agent inside a frozen model's dreams (chapter 07).

    Each round picks ``n_starts`` of the contexts and dreams ``n_dreams`` futures of each. The
    agent trades in them and learns, ``n_passes`` times: its orders move nothing, so a dream
    serves more than once. Not one tick of the market is touched.

    Args:
        world_model: frozen; no gradient reaches it. Or an ensemble.
        agent: learns in place.
        start_state: contexts to dream from, a ``Market`` or raw features (B, T, F). If the agent
            trades the volatility contract they must be longer than its warm-up.
        horizon: ticks of a dream.
        n_dreams, n_starts: futures a context, contexts a round.
        n_rounds: rounds of dreaming and learning.
        n_passes: times that the agent trades in the same dreams.
        halt: ends dreams that are not to be believed.
        generator: of the starts and of the dreams; the agent's own, which its seed began, if None.

    Returns:
        Mean reward of each round, basis points a tick, penalties included.
    """
    belief = observe(world_model, start_state)
    features = start_state.features if isinstance(start_state, Market) else start_state
    strike = None if agent.contract is None else agent.contract.strikes(features)[:, -1]
    generator = agent.generator if generator is None else generator
    curve = []
    for _ in range(n_rounds):
        rows = torch.randint(len(belief.features), (n_starts,), generator=generator)
        path = dream(
            world_model,
            belief.take(rows),
            n_dreams=n_dreams,
            horizon=horizon,
            generator=generator,
            halt=halt,
        )
        path = end_explosions(path)
        if strike is not None:
            path = quote(path, agent.contract, strike[rows])
        curve.append(sum(agent.learn(path) for _ in range(n_passes)) / n_passes)
    return curve
