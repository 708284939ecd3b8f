"""The mixture of Gaussians, held to torch.distributions and to its own samples."""

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from mambadream_lite.model import MixtureOfGaussians
from mambadream_lite.model.heads import LinearHead, MixtureHead

N = 200_000
COMPONENTS, FEATURES = 3, 4
SHIFT, SCALE = torch.tensor([1.0, -2.0, 0.5, 10.0]), torch.tensor([0.1, 3.0, 1.0, 20.0])


def make_law(batch: tuple[int, ...] = ()) -> MixtureOfGaussians:
    g = torch.Generator().manual_seed(1)
    log_weight = torch.randn(*batch, COMPONENTS, generator=g).log_softmax(-1)
    mean = 2 * torch.randn(*batch, COMPONENTS, FEATURES, generator=g)
    factor = torch.randn(*batch, COMPONENTS, FEATURES, FEATURES, generator=g).tril(-1)
    diagonal = torch.randn(*batch, COMPONENTS, FEATURES, generator=g).mul(0.5).exp()
    return MixtureOfGaussians(log_weight, mean, factor + torch.diag_embed(diagonal), SHIFT, SCALE)


def reference(law: MixtureOfGaussians) -> MixtureSameFamily:
    """The same law in scaled units, float64, from its definition: precision = L^T L."""
    factor = law.precision_cholesky.double()
    components = MultivariateNormal(
        law.component_mean.double(), precision_matrix=factor.transpose(-1, -2) @ factor
    )
    return MixtureSameFamily(Categorical(logits=law.log_weight.double()), components)


def covariance(law: MixtureOfGaussians) -> torch.Tensor:
    """Of the raw features (F, F), by the law of total variance."""
    known = reference(law)
    weight = known.mixture_distribution.probs[:, None, None]
    inside, mean = known.component_distribution.covariance_matrix, law.component_mean.double()
    away = mean - known.mean
    total = (weight * (inside + away[:, :, None] * away[:, None])).sum(0)
    return total * SCALE.double()[:, None] * SCALE.double()


def generator(seed: int = 2) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def draws() -> tuple[MixtureOfGaussians, torch.Tensor]:
    law = make_law()
    many = MixtureOfGaussians(
        law.log_weight.expand(N, -1),
        law.component_mean.expand(N, -1, -1),
        law.precision_cholesky.expand(N, -1, -1, -1),
        SHIFT,
        SCALE,
    )
    return law, many.sample(generator=generator()).double()


def test_log_prob_is_that_of_torch_distributions() -> None:
    law = make_law((5, 7))
    z = torch.randn(5, 7, FEATURES, generator=generator())
    expected = reference(law).log_prob(z.double()) - SCALE.double().log().sum()
    assert torch.allclose(law.log_prob(z * SCALE + SHIFT).double(), expected, atol=1e-4)


def test_density_integrates_to_one() -> None:
    law = make_law()
    plane = MixtureOfGaussians(
        law.log_weight,
        law.component_mean[..., :2],
        law.precision_cholesky[..., :2, :2],
        SHIFT[:2],
        SCALE[:2],
    )
    axis = torch.linspace(-25, 25, 1001)
    grid = torch.cartesian_prod(axis, axis) * SCALE[:2] + SHIFT[:2]
    cell = (axis[1] - axis[0]) ** 2 * SCALE[:2].prod()
    assert (plane.log_prob(grid).exp().sum() * cell).item() == pytest.approx(1, abs=1e-3)


def test_mean_and_stddev_are_those_of_torch_distributions() -> None:
    law = make_law((5,))
    known = reference(law)
    assert torch.allclose(law.mean.double(), known.mean * SCALE + SHIFT, rtol=1e-4)
    assert torch.allclose(law.stddev.double(), known.variance.sqrt() * SCALE, rtol=1e-4)


def test_samples_have_the_mean_and_covariance_of_the_law(draws) -> None:
    law, x = draws
    exact = covariance(law)
    assert ((x.mean(0) - law.mean).abs() < 5 * (exact.diagonal() / N).sqrt()).all()
    away = x - law.mean
    products = away[:, :, None] * away[:, None]
    error = products.std(0) / N**0.5
    assert ((products.mean(0) - exact).abs() < 5 * error).all()


def test_cdf_counts_the_samples_below(draws) -> None:
    law, x = draws
    for q in (0.02, 0.3, 0.5, 0.9):
        point = x.quantile(q, dim=0).float()
        assert torch.allclose(law.cdf(point), torch.full((FEATURES,), q), atol=2.5 / N**0.5)


def test_the_density_of_a_margin_is_that_of_a_mixture_of_its_own() -> None:
    law = make_law()
    x = SHIFT + SCALE * torch.linspace(-4, 4, 9)[:, None]
    found = law.margin_log_prob(x)
    known = reference(law)
    variance = known.component_distribution.covariance_matrix.diagonal(dim1=-2, dim2=-1)
    for i in range(FEATURES):
        parts = Normal(law.component_mean[:, i].double(), variance[:, i].sqrt())
        margin = MixtureSameFamily(known.mixture_distribution, parts)
        z = ((x[:, i] - SHIFT[i]) / SCALE[i]).double()
        expected = margin.log_prob(z) - SCALE[i].double().log()
        assert torch.allclose(found[:, i].double(), expected, atol=1e-4)


def test_a_generator_fixes_the_draws() -> None:
    law = make_law((50,))
    first, again, other = (law.sample(generator=generator(s)) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_at_temperature_zero_the_likeliest_component_is_certain() -> None:
    law = make_law((50,))
    k = law.log_weight.argmax(-1)
    expected = law.component_mean[torch.arange(50), k] * SCALE + SHIFT
    for seed in (3, 4):
        found = law.sample(generator=generator(seed), temperature=0.0)
        assert torch.allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.25, 4.0])
def test_temperature_scales_the_variance_of_a_component(temperature: float) -> None:
    n = 50_000
    gaussian = MixtureOfGaussians(
        torch.zeros(n, 1), torch.zeros(n, 1, 1), torch.ones(n, 1, 1, 1), SHIFT[:1], SCALE[:1]
    )
    x = gaussian.sample(generator=generator(), temperature=temperature)
    expected = SCALE[0].item() * temperature**0.5
    assert x.std().item() == pytest.approx(expected, rel=4 / (2 * n) ** 0.5)


@pytest.mark.parametrize("temperature", [-0.1, float("nan")])
def test_a_negative_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature must not be negative, got {temperature}"):
        make_law().sample(temperature=temperature)


def test_indexing_picks_from_the_batch() -> None:
    law, x = make_law((5, 7)), torch.randn(FEATURES, generator=generator())
    assert torch.allclose(law[3, 2].log_prob(x), law.log_prob(x)[3, 2])


@pytest.fixture
def head() -> MixtureHead:
    torch.manual_seed(5)
    head = MixtureHead(d_model=8, d_input=FEATURES, n_components=COMPONENTS)
    torch.nn.init.normal_(head.skip.weight, std=0.1)
    return head.requires_grad_(False)


@pytest.mark.parametrize("size", [1.0, 1e3, 1e6])
def test_the_head_gives_numbers_at_extreme_inputs(head: MixtureHead, size: float) -> None:
    y, z = (size * torch.randn(500, n, generator=generator()) for n in (8, FEATURES))
    law = head(y, z, SHIFT, SCALE)
    for value in (law.log_prob(z), law.mean, law.cdf(z)):
        assert torch.isfinite(value).all()
    assert not torch.isnan(law.stddev).any()
    assert not torch.isnan(law.sample(generator=generator())).any()
    assert torch.isfinite(law.log_weight).all()


def test_the_head_returns_normalised_weights_and_triangular_factors(head: MixtureHead) -> None:
    law = head(torch.randn(9, 8), torch.randn(9, FEATURES), SHIFT, SCALE)
    assert torch.allclose(law.log_weight.exp().sum(-1), torch.ones(9))
    assert torch.equal(law.precision_cholesky, law.precision_cholesky.tril())
    assert (law.precision_cholesky.diagonal(dim1=-2, dim2=-1) > 0).all()


def test_components_start_apart(head: MixtureHead) -> None:
    means = head(torch.zeros(1, 8), torch.zeros(1, FEATURES), SHIFT, SCALE).component_mean[0]
    assert torch.pdist(means).min() > 0.05


def test_the_linear_head_is_squared_error() -> None:
    torch.manual_seed(6)
    head = LinearHead(8, FEATURES).requires_grad_(False)
    y, x = torch.randn(9, 8), torch.randn(9, FEATURES)
    law = head(y, x, SHIFT, SCALE)
    expected = Normal(head.out(y) * SCALE + SHIFT, SCALE).log_prob(x).sum(-1)
    assert torch.allclose(law.log_prob(x), expected, rtol=1e-4)
    assert torch.allclose(law.stddev, SCALE.expand(9, -1))
    squared = ((x - law.mean) / SCALE).square().sum(-1)
    constant = law.log_prob(x) + 0.5 * squared
    flat = -0.5 * FEATURES * math.log(2 * math.pi) - SCALE.log().sum()
    assert torch.allclose(constant, flat.expand(9), rtol=1e-4)
