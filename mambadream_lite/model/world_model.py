"""The world model: ticks in, a distribution of the next tick and the expected reward out (ch. 04).

Raw units go in and come out; the scaler is inside. The model's hidden state is all it
remembers of history, at constant size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mambadream_lite.market.features import FEATURES, VELOCITY, Market, Scaler, velocity_unit
from mambadream_lite.market.heston import BARS_PER_YEAR
from mambadream_lite.model.heads import LinearHead, MixtureHead, MixtureOfGaussians
from mambadream_lite.model.mamba import Mamba
from mambadream_lite.model.scan import numba_kernels

Hidden = tuple[NamedTuple, ...]  # a state a block: MambaState, or a Transformer's cache
HEADS = ("mixture", "linear")
# Training sds beyond which an input is no longer told apart. A dream that strays outside its
# training data would otherwise feed its own extrapolation back until it overflows.
INPUT_LIMIT = 8.0


class Step(Protocol):
    """Takes a tick (N, F) in; returns the law of the next, its reward (N,) and its risk (N,).

    ``reward`` is the expected simple return of one unit, ``risk`` the sd of the log return.
    """

    def __call__(
        self, x: Tensor, action: Tensor | None = None
    ) -> tuple[MixtureOfGaussians, Tensor, Tensor]:
        """One tick of every dream."""
        ...


class EagerStep:
    """``Step`` for any model that is called like ``MambaWorldModel``, with gradients if asked."""

    def __init__(self, model: nn.Module, hidden: Hidden) -> None:
        self.model, self.hidden = model, hidden

    def __call__(
        self, x: Tensor, action: Tensor | None = None
    ) -> tuple[MixtureOfGaussians, Tensor, Tensor]:
        """One tick of every dream."""
        law, reward, self.hidden = self.model(x, self.hidden, action)
        return law, reward, law.first_moments()[1] * self.model.velocity_unit


class WorldModel(nn.Module):
    """What every world model of the book shares: scaler, embedding, heads (chapter 04).

    A subclass says what its blocks are. A block is called on normed features and its state, and
    returns what is added to the residual stream, and the new state::

        out, state = block(x, state)            # x (B, T, D); state None is no history
        out, state = block.step(x_t, state)     # x_t (B, D)
        state = block.initial_state(batch)

    Args:
        config: the subclass's own arguments, from which a checkpoint builds it again.
        block: makes one block.
    """

    def __init__(self, config: dict[str, int | str], block: Callable[[], nn.Module]) -> None:
        super().__init__()
        for name, least in (("d_input", 1), ("n_layers", 1), ("n_components", 1), ("d_action", 0)):
            if config[name] < least:
                raise ValueError(f"{name} must be at least {least}, got {config[name]}")
        if config["head"] not in HEADS:
            raise ValueError(f"head must be one of {HEADS}, got {config['head']!r}")
        self.config = config
        d_input, d_model, n_layers = (config[k] for k in ("d_input", "d_model", "n_layers"))
        self.embed = nn.Linear(d_input + config["d_action"], d_model)
        self.norms = nn.ModuleList(nn.RMSNorm(d_model, eps=1e-5) for _ in range(n_layers))
        self.blocks = nn.ModuleList(block() for _ in range(n_layers))
        self.final_norm = nn.RMSNorm(d_model, eps=1e-5)
        if config["head"] == "mixture":
            self.head = MixtureHead(d_model, d_input, config["n_components"])
        else:
            self.head = LinearHead(d_model, d_input)
        self.reward_head = nn.Linear(d_model + d_input, 1)
        nn.init.zeros_(self.reward_head.weight)
        nn.init.zeros_(self.reward_head.bias)
        self.register_buffer("feature_mean", torch.zeros(d_input))
        self.register_buffer("feature_std", torch.ones(d_input))
        self.register_buffer("bar", torch.tensor(1 / BARS_PER_YEAR, dtype=torch.float64))

    def fit_scaler(self, train: Market) -> None:
        """Take mean and sd of each feature and the bar's length from the training market."""
        scaler = Scaler().fit(train)
        self.feature_mean.copy_(scaler.mean)
        self.feature_std.copy_(scaler.std)
        self.bar.fill_(train.bar)

    @property
    def velocity_unit(self) -> float:
        """Log return of one unit of velocity at the model's bar length (5 minutes until fitted)."""
        return velocity_unit(float(self.bar))

    def forward(
        self, x: Tensor, hidden: Hidden | None = None, action: Tensor | None = None
    ) -> tuple[MixtureOfGaussians, Tensor, Hidden]:
        """Predict the tick after each of the given ones.

        Args:
            x: raw features, a sequence (B, T, F) or a single tick (B, F), which costs O(1).
            hidden: the state returned for the ticks before; None if there were none.
            action: (B, T, A) or (B, A) if ``d_action > 0``, else None.

        Returns:
            The law of the next features (log_prob, sample, mean, stddev; raw units), the
            expected reward (B, T) or (B,), which is the return of one unit of the asset held
            over the next tick as a fraction of its price, and the new hidden state.

        Raises:
            ValueError: a wrong number of features, values that are not finite, or an action
                where the model takes none (or none where it takes one).
        """
        self._check(x, action)
        z, y = self.enter(x, action)
        single = x.ndim == 2
        states = []
        for i, (norm, block) in enumerate(zip(self.norms, self.blocks, strict=True)):
            if single:
                state = block.initial_state(len(x)) if hidden is None else hidden[i]
                out, state = block.step(norm(y), state)
            else:
                out, state = block(norm(y), None if hidden is None else hidden[i])
            y = y + out
            states.append(state)
        y = self.final_norm(y)
        next_features = self.head(y, z, self.feature_mean, self.feature_std)
        # the reward is read in units of its own risk, which it must not teach
        risk = next_features.stddev[..., VELOCITY].detach() * self.velocity_unit
        reward = self.reward_head(torch.cat([y, z], dim=-1)).float().squeeze(-1) * risk
        return next_features, reward, tuple(states)

    def enter(self, x: Tensor, action: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scaled features z (..., F), and the residual stream y (..., D) that begins with them."""
        z = ((x - self.feature_mean) / self.feature_std).clamp(-INPUT_LIMIT, INPUT_LIMIT)
        # float32 under mixed precision too: what is added up over layers must not be rounded
        return z, self.embed(z if action is None else torch.cat([z, action], dim=-1)).float()

    @property
    def fusable(self) -> bool:
        """Whether the compiled CPU loops can step it now: nobody asks for gradients."""
        weight = self.embed.weight
        plain = weight.device.type == "cpu" and weight.dtype == torch.float32
        if not plain or torch.is_grad_enabled() or not isinstance(self.head, MixtureHead):
            return False
        return numba_kernels() is not None

    def stepper(self, hidden: Hidden, horizon: int) -> Step:
        """Steps ``horizon`` ticks of dreams that start from ``hidden``, by the fastest way."""
        return EagerStep(self, hidden)

    def _check(self, x: Tensor, action: Tensor | None) -> None:
        d_input, d_action = self.config["d_input"], self.config["d_action"]
        if x.ndim not in (2, 3) or x.shape[-1] != d_input:
            raise ValueError(
                f"x must have shape (B, T, {d_input}) or (B, {d_input}), got {tuple(x.shape)}"
            )
        if not torch.isfinite(x).all():
            raise ValueError(
                f"x must be finite, but {int((~torch.isfinite(x)).sum())} of its values are not"
            )
        if bool(d_action) != (action is not None):
            raise ValueError(f"action must be given if and only if d_action > 0 (it is {d_action})")
        if action is not None and action.shape != (*x.shape[:-1], d_action):
            raise ValueError(
                f"action must have shape {(*x.shape[:-1], d_action)}, got {tuple(action.shape)}"
            )


class MambaWorldModel(WorldModel):
    """Mamba as a world model of a market (chapter 04).

    Args:
        d_input: number of features F.
        d_model: width D.
        d_state: state size S of each channel.
        n_layers: number of Mamba blocks, each pre-normed and residual.
        n_components: mixture components K of the head.
        d_action: size A of an action that the next tick depends on; 0 for a small trader,
            whose orders move nothing.
        head: ``"mixture"``, or ``"linear"``, the source chapter's two linear maps.

    Raises:
        ValueError: a size below its least value, or an unknown head.
    """

    def __init__(
        self,
        d_input: int = len(FEATURES),
        d_model: int = 128,
        d_state: int = 32,
        n_layers: int = 1,
        n_components: int = 5,
        d_action: int = 0,
        head: str = "mixture",
    ) -> None:
        config = {
            "d_input": d_input,
            "d_model": d_model,
            "d_state": d_state,
            "n_layers": n_layers,
            "n_components": n_components,
            "d_action": d_action,
            "head": head,
        }
        super().__init__(config, lambda: Mamba(d_model, d_state))

    def stepper(self, hidden: Hidden, horizon: int) -> Step:
        """As ``WorldModel.stepper``: on a CPU fused, and in place."""
        if not self.fusable:
            return EagerStep(self, hidden)
        from mambadream_lite.model.step_cpu import FusedStep

        return FusedStep(self, hidden)
