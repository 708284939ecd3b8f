"""What the model says about the next tick: a joint distribution of all six features (chapter 04).

A mixture of K Gaussians with full covariance (Bishop, 1994). Each component is held by the
Cholesky factor L of its precision: ``log N(x) = sum log L_ii - |L (x - mu)|^2 / 2 + const``,
with no matrix to invert in training. L is lower triangular and velocity comes first.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

LOG_SCALE_RANGE = (-2.0, 7.0)  # log of L's diagonal: sds between e^-7 and e^2 training sds
MIN_WEIGHT = 1e-6  # no component's weight can underflow to nothing


class MixtureOfGaussians:
    """Joint distribution of the F features of the next tick, in raw units (chapter 04).

    Args:
        log_weight: (..., K), normalised.
        mean: (..., K, F) component means, scaled units.
        precision_cholesky: (..., K, F, F), lower triangular with positive diagonal.
        shift, scale: (F,), raw = scaled * scale + shift.
    """

    def __init__(
        self,
        log_weight: Tensor,
        mean: Tensor,
        precision_cholesky: Tensor,
        shift: Tensor,
        scale: Tensor,
    ) -> None:
        self.log_weight = log_weight
        self.component_mean = mean
        self.precision_cholesky = precision_cholesky
        self.shift, self.scale = shift, scale

    def __getitem__(self, index: object) -> MixtureOfGaussians:
        """Index the leading (batch and time) dimensions."""
        return MixtureOfGaussians(
            self.log_weight[index],
            self.component_mean[index],
            self.precision_cholesky[index],
            self.shift,
            self.scale,
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density (...) of raw features x (..., F), in nats."""
        z = (x - self.shift) / self.scale
        residual = self.precision_cholesky @ (z.unsqueeze(-2) - self.component_mean).unsqueeze(-1)
        log_det = self.precision_cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = 0.5 * z.shape[-1] * math.log(2 * math.pi) + self.scale.log().sum()
        log_component = log_det - 0.5 * residual.squeeze(-1).square().sum(-1)
        return torch.logsumexp(self.log_weight + log_component, dim=-1) - constant

    def sample(
        self, *, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Tensor:
        """Draw raw features (..., F).

        Args:
            generator: source of the draws.
            temperature: 1 is the model's own belief; below 1 the likelier component and
                smaller shocks, above 1 wilder ones (Ha and Schmidhuber, 2018); 0 the mode's mean.
        """
        if not temperature >= 0:
            raise ValueError(f"temperature must not be negative, got {temperature}")
        shape, device = self.log_weight.shape[:-1], self.log_weight.device
        u = torch.rand(shape, generator=generator, device=device)
        noise = torch.randn(*shape, len(self.scale), generator=generator, device=device)
        return self.draw(u, noise, temperature)

    def draw(self, u: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """``sample`` as a function of its randomness, through which gradients flow.

        Args:
            u: (...) uniform in [0, 1), chooses the component.
            noise: (..., F) standard normal.
            temperature: as in ``sample``.

        Returns:
            (..., F) raw features.
        """
        cumulative = torch.softmax(self.log_weight / max(temperature, 1e-6), dim=-1).cumsum(-1)
        k = (u.unsqueeze(-1) > cumulative).sum(-1).clamp(max=cumulative.shape[-1] - 1)
        mean, factor = self._component(k)
        shock = torch.linalg.solve_triangular(factor, noise.unsqueeze(-1), upper=False)
        z = mean + math.sqrt(temperature) * shock.squeeze(-1)
        return z * self.scale + self.shift

    def _component(self, k: Tensor) -> tuple[Tensor, Tensor]:
        index = k[..., None, None]
        n = self.component_mean.shape[-1]
        mean = self.component_mean.gather(-2, index.expand(*k.shape, 1, n)).squeeze(-2)
        index = index.unsqueeze(-1).expand(*k.shape, 1, n, n)
        return mean, self.precision_cholesky.gather(-3, index).squeeze(-3)

    @functools.cached_property
    def mean(self) -> Tensor:
        """Mean (..., F) in raw units."""
        weight = self.log_weight.exp().unsqueeze(-1)
        return (weight * self.component_mean).sum(-2) * self.scale + self.shift

    @functools.cached_property
    def stddev(self) -> Tensor:
        """Standard deviation (..., F) in raw units."""
        weight = self.log_weight.exp().unsqueeze(-1)
        centre = (weight * self.component_mean).sum(-2, keepdim=True)
        spread = (self.component_mean - centre).square()
        return (weight * (self._component_variance() + spread)).sum(-2).sqrt() * self.scale

    def first_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and sd (...) of the first feature, raw units: the factor's first entry says both."""
        weight, mean = self.log_weight.exp(), self.component_mean[..., 0]
        centre = (weight * mean).sum(-1)
        variance = self.precision_cholesky[..., 0, 0].square().reciprocal()
        spread = (weight * (variance + (mean - centre.unsqueeze(-1)).square())).sum(-1)
        return centre * self.scale[0] + self.shift[0], spread.sqrt() * self.scale[0]

    def cdf(self, x: Tensor) -> Tensor:
        """P(feature <= x) of each margin (..., F), x in raw units."""
        z = ((x - self.shift) / self.scale).unsqueeze(-2)
        standardised = (z - self.component_mean) / self._component_variance().sqrt()
        return (self.log_weight.exp().unsqueeze(-1) * torch.special.ndtr(standardised)).sum(-2)

    def margin_log_prob(self, x: Tensor) -> Tensor:
        """Log density (..., F) of each feature alone, x (..., F) in raw units; nats."""
        z = ((x - self.shift) / self.scale).unsqueeze(-2)
        variance = self._component_variance()
        log_component = -0.5 * (
            (z - self.component_mean).square() / variance + (2 * math.pi * variance).log()
        )
        log_mixture = torch.logsumexp(self.log_weight.unsqueeze(-1) + log_component, dim=-2)
        return log_mixture - self.scale.log()

    def _component_variance(self) -> Tensor:
        """Diagonal (..., K, F) of each component's covariance, in scaled units."""
        eye = torch.eye(self.scale.shape[0], device=self.scale.device)
        root = torch.linalg.solve_triangular(self.precision_cholesky, eye, upper=False)
        return root.square().sum(-1)


class MixtureHead(nn.Module):
    """Reads a mixture of K joint Gaussians off the hidden features, with a linear skip.

    Args:
        d_model: width of the model's output.
        d_input: number of features F, and of inputs to the skip.
        n_components: K.
    """

    def __init__(self, d_model: int, d_input: int, n_components: int) -> None:
        super().__init__()
        self.n_components, self.d_input = n_components, d_input
        lower = d_input * (d_input - 1) // 2
        self.sizes = [n_components, n_components * d_input] + [
            n_components * d_input,
            n_components * lower,
        ]
        self.out = nn.Linear(d_model, sum(self.sizes))
        self.skip = nn.Linear(d_input, sum(self.sizes), bias=False)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.skip.weight)
        # components start apart, or they would stay one
        nn.init.normal_(self.out.bias, std=0.3)
        self.register_buffer(
            "rows_cols", torch.tril_indices(d_input, d_input, -1), persistent=False
        )

    def forward(self, y: Tensor, z: Tensor, shift: Tensor, scale: Tensor) -> MixtureOfGaussians:
        """Hidden features y (..., D) and scaled input z (..., F) to the next tick's law."""
        return mixture((self.out(y) + self.skip(z)).float(), self, shift, scale)


def mixture(raw: Tensor, head: MixtureHead, shift: Tensor, scale: Tensor) -> MixtureOfGaussians:
    """What the raw numbers (..., R) of a mixture head stand for."""
    logits, mean, log_diag, lower = raw.split(head.sizes, dim=-1)
    shape = (*logits.shape, head.d_input)
    weight = torch.softmax(logits, dim=-1)
    weight = MIN_WEIGHT + (1 - head.n_components * MIN_WEIGHT) * weight
    factor = torch.diag_embed(log_diag.reshape(shape).clamp(*LOG_SCALE_RANGE).exp())
    row, col = head.rows_cols
    factor[..., row, col] = lower.reshape(*logits.shape, -1)
    return MixtureOfGaussians(weight.log(), mean.reshape(shape), factor, shift, scale)


class LinearHead(nn.Module):
    """The source chapter's head: one linear map to the next features, trained on squared error.

    Squared error is the log likelihood of a Gaussian with unit variance in scaled units, so
    that is the distribution it returns. It cannot say when the market is calm or wild.
    """

    def __init__(self, d_model: int, d_input: int) -> None:
        super().__init__()
        self.out = nn.Linear(d_model, d_input)

    def forward(self, y: Tensor, z: Tensor, shift: Tensor, scale: Tensor) -> MixtureOfGaussians:
        """Hidden features y (..., D) to a unit Gaussian around the predicted tick."""
        mean = self.out(y).float()
        factor = torch.eye(mean.shape[-1], device=mean.device).expand(*mean.shape[:-1], 1, -1, -1)
        log_weight = mean.new_zeros(*mean.shape[:-1], 1)
        return MixtureOfGaussians(log_weight, mean.unsqueeze(-2), factor, shift, scale)
