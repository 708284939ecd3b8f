"""The agent's networks: a level for each instrument, and the worth of its state (chapter 07)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Normal

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
        self.sizes = [self._asset_outputs(levels)] + [len(contract_levels)] * bool(contract_levels)
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.float64))
        self.register_buffer("contract_levels", torch.tensor(contract_levels, dtype=torch.float64))
        self.policy = _network(n_inputs, width, sum(self.sizes), gain=0.01)
        self.value = _network(n_inputs, width, 1, gain=1.0)
        self.inertia = nn.Parameter(torch.tensor(inertia))

    def _asset_outputs(self, levels: tuple[float, ...]) -> int:
        """Outputs of the policy that say what to do with the asset."""
        return len(levels)

    def start(self, n: int, generator: torch.Generator) -> Tensor:
        """Leverages (n,) to begin an episode with: levels drawn at random."""
        return self.levels[torch.randint(self.sizes[0], (n,), generator=generator)]

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

    def target(self, choice: Tensor, held: Tensor) -> Tensor:
        """Leverages of choices (N, instruments): (N,) of the asset alone, else (N, 2)."""
        asset = self.levels[choice[:, 0]]
        if len(self.sizes) == 1:
            return asset
        return torch.stack([asset, self.contract_levels[choice[:, 1]]], dim=-1)


class ContinuousActorCritic(ActorCritic):
    """The same trader, with any leverage of the asset between its lowest and highest level.

    It first decides whether to trade at all, and only then for which leverage; else the position
    drifts. The leverage is drawn from a normal law of z = sign(L) log(1 + |L|), so that the same
    noise tries 1x against 2x and 30x against 60x. A choice is (trade or not, z), and the index of
    the contract's level, if there is one.
    """

    def __init__(
        self,
        n_inputs: int,
        levels: tuple[float, ...],
        contract_levels: tuple[float, ...],
        width: int,
        inertia: float,
    ) -> None:
        super().__init__(n_inputs, levels, contract_levels, width, inertia)
        self.log_sd = nn.Parameter(torch.tensor(-0.5))

    def _asset_outputs(self, levels: tuple[float, ...]) -> int:
        """The logit of trading, and the mean of z."""
        return 2

    def start(self, n: int, generator: torch.Generator) -> Tensor:
        """Leverages (n,) to begin an episode with, evenly spread in z."""
        low, high = (_compressed(x) for x in (self.levels.min(), self.levels.max()))
        share = torch.rand(n, generator=generator, dtype=torch.float64)
        return _leverage(low + (high - low) * share)

    def held(self, state: AccountState) -> Tensor:
        """The leverage (N,) now held."""
        return state.leverage

    def laws(self, inputs: Tensor) -> tuple[Bernoulli, Normal, list[Categorical]]:
        """Of trading or not, of z, and of the contract's level."""
        first, *second = self.policy(inputs).split(self.sizes, dim=-1)
        trade = Bernoulli(logits=first[..., 0] - self.inertia)
        z = Normal(first[..., 1], self.log_sd.exp())
        return trade, z, [Categorical(logits=other) for other in second]

    def judge(self, inputs: Tensor, held: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
        """Log probability (N,) of choices (N, 2 or 3), and the entropy (N,) of the policy."""
        trade, z, second = self.laws(inputs)
        log_prob = trade.log_prob(choice[:, 0]) + choice[:, 0] * z.log_prob(choice[:, 1])
        entropy = trade.entropy() + trade.probs * z.entropy()
        for law in second:
            log_prob = log_prob + law.log_prob(choice[:, 2])
            entropy = entropy + law.entropy()
        return log_prob, entropy

    @torch.no_grad()
    def choose(
        self, inputs: Tensor, held: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Choices (N, 2 or 3): the likeliest, or drawn if a generator is given."""
        trade, z, second = self.laws(inputs)
        if generator is None:
            columns = [(trade.probs > 0.5).float(), z.mean]
            columns += [law.probs.argmax(-1).float() for law in second]
            return torch.stack(columns, dim=-1)
        columns = [torch.bernoulli(trade.probs, generator=generator)]
        columns.append(torch.normal(z.mean, z.stddev, generator=generator))
        for law in second:
            drawn = torch.multinomial(law.probs, 1, generator=generator)
            columns.append(drawn.squeeze(-1).float())
        return torch.stack(columns, dim=-1)

    def target(self, choice: Tensor, held: Tensor) -> Tensor:
        """Leverages of choices: (N,) of the asset alone, else (N, 2)."""
        wanted = torch.where(choice[:, 0] > 0, _leverage(choice[:, 1].double()), held)
        asset = wanted.clamp(self.levels.min(), self.levels.max())
        if len(self.sizes) == 1:
            return asset
        return torch.stack([asset, self.contract_levels[choice[:, 2].long()]], dim=-1)


def _compressed(leverage: Tensor) -> Tensor:
    """z of a leverage."""
    return leverage.sign() * leverage.abs().log1p()


def _leverage(z: Tensor) -> Tensor:
    """The leverage of a z."""
    return z.sign() * z.abs().expm1()


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
