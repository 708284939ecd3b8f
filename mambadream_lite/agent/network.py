"""The agent's networks: a level for each instrument, and the worth of its state (chapter 07)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from mambadream_lite.market.account import AccountState


class ActorCritic(nn.Module):
    """Policy and value of one trader, two tanh layers each.

    The level of each instrument is drawn on its own. The asset is held from tick to tick, so the
    policy starts with a preference for the level it has; a contract lives for one tick and is
    opened anew.

    Args:
        n_inputs: I, columns of ``trader_inputs``.
        levels: leverages of the asset.
        contract_levels: leverages of the volatility contract; empty if it is not traded.
        width: of the hidden layers.
        inertia: logit that the asset's present level starts with over the others.
    """

    def __init__(
        self,
        n_inputs: int,
        levels: tuple[float, ...],
        contract_levels: tuple[float, ...],
        width: int,
        inertia: float,
    ) -> None:
        super().__init__()
        self.sizes = [len(levels)] + [len(contract_levels)] * bool(contract_levels)
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.float64))
        self.register_buffer("contract_levels", torch.tensor(contract_levels, dtype=torch.float64))
        self.policy = _network(n_inputs, width, sum(self.sizes), gain=0.01)
        self.value = _network(n_inputs, width, 1, gain=1.0)
        self.inertia = nn.Parameter(torch.tensor(inertia))

    def held(self, state: AccountState) -> Tensor:
        """Index (N,) of the level nearest to the leverage now held."""
        return (state.leverage.unsqueeze(-1) - self.levels).abs().argmin(-1)

    def logits(self, inputs: Tensor, held: Tensor) -> tuple[Tensor, ...]:
        """Preference for each level (N, levels), one tensor an instrument."""
        first, *second = self.policy(inputs).split(self.sizes, dim=-1)
        stay = nn.functional.one_hot(held, self.sizes[0])
        return (first + self.inertia * stay, *second)

    def judge(self, inputs: Tensor, held: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
        """Log probability (N,) of choices (N, instruments), and the entropy (N,) of the policy."""
        laws = [Categorical(logits=z) for z in self.logits(inputs, held)]
        log_prob = sum(law.log_prob(choice[:, i]) for i, law in enumerate(laws))
        return log_prob, sum(law.entropy() for law in laws)

    def choose(
        self, inputs: Tensor, held: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Levels (N, instruments): the likeliest, or drawn if a generator is given."""
        logits = self.logits(inputs, held)
        if generator is None:
            return torch.stack([z.argmax(-1) for z in logits], dim=-1)
        drawn = [torch.multinomial(z.softmax(-1), 1, generator=generator) for z in logits]
        return torch.cat(drawn, dim=-1)

    def target(self, choice: Tensor) -> Tensor:
        """Leverages of choices (N, instruments): (N,) of the asset alone, else (N, 2)."""
        asset = self.levels[choice[:, 0]]
        if len(self.sizes) == 1:
            return asset
        return torch.stack([asset, self.contract_levels[choice[:, 1]]], dim=-1)


def _network(n_inputs: int, width: int, n_outputs: int, gain: float) -> nn.Sequential:
    """Orthogonal weights; a small last gain starts the policy near uniform."""
    layers = [
        nn.Linear(n_inputs, width),
        nn.Tanh(),
        nn.Linear(width, width),
        nn.Tanh(),
        nn.Linear(width, n_outputs),
    ]
    for layer, scale in ((layers[0], 2**0.5), (layers[2], 2**0.5), (layers[4], gain)):
        nn.init.orthogonal_(layer.weight, scale)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)
