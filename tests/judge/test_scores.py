"""Scores against closed forms: Gaussian CRPS, uniform PIT, block means by hand."""

import numpy as np
import pytest
import torch
from scipy import stats

from mambadream_lite.judge import block_mean, crps, energy_score, log_score, pit
from mambadream_lite.model import MixtureOfGaussians


def gaussian(n: int) -> MixtureOfGaussians:
    """n copies of independent N(1, 2^2) and N(-3, 0.5^2)."""
    return MixtureOfGaussians(
        torch.zeros(n, 1),
        torch.zeros(n, 1, 2),
        torch.eye(2).expand(n, 1, 2, 2),
        torch.tensor([1.0, -3.0]),
        torch.tensor([2.0, 0.5]),
    )


def truths(n: int) -> np.ndarray:
    return np.random.default_rng(1).normal([1.0, -3.0], [2.0, 0.5], (n, 2))


def test_log_score_is_the_log_density() -> None:
    x = truths(50)
    expected = stats.norm([1, -3], [2, 0.5]).logpdf(x).sum(1)
    found = log_score(gaussian(50), torch.from_numpy(x).float())
    assert np.allclose(found, expected, atol=1e-4)


def test_pit_of_a_true_forecast_is_uniform_and_of_a_false_one_is_not() -> None:
    n = 5000
    u = pit(gaussian(n), torch.from_numpy(truths(n)).float()).numpy()
    for feature in range(2):
        assert stats.kstest(u[:, feature], stats.uniform.cdf).pvalue > 1e-3
    wide = pit(gaussian(n), torch.from_numpy(1.5 * truths(n)).float()).numpy()
    assert stats.kstest(wide[:, 0], stats.uniform.cdf).pvalue < 1e-6


@pytest.mark.parametrize("x", [-4.0, 0.0, 1.0, 2.5])
def test_crps_of_gaussian_draws_is_the_closed_form(x: float) -> None:
    """Gneiting and Raftery (2007), Eq. 21 (theirs has the other sign)."""
    mean, sd, n = 1.0, 2.0, 20_000
    samples = torch.from_numpy(np.random.default_rng(2).normal(mean, sd, (n, 1)))
    z = (x - mean) / sd
    exact = sd * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    found = crps(samples, torch.tensor([x], dtype=torch.float64))
    assert found.item() == pytest.approx(exact, abs=4 * sd / n**0.5)


def test_crps_scores_each_value_by_its_own_draws() -> None:
    x = torch.zeros(2, 3)
    samples = torch.zeros(4, 2, 3)
    samples[:, 1, 2] = 5.0  # all draws agree: the score is the distance
    expected = torch.zeros(2, 3)
    expected[1, 2] = 5.0
    assert torch.equal(crps(samples, x).float(), expected)


@pytest.mark.parametrize("shape", [(1, 3), (4, 2), (3,)])
def test_draws_that_do_not_match_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^samples must have shape \(M, \*\(3,\)\) with M >= 2"):
        crps(torch.zeros(shape), torch.zeros(3))


def test_block_mean_by_hand() -> None:
    scores = torch.arange(2 * 13.0).view(2, 13)  # blocks of 3: the last tick of each is left out
    means = np.array([1, 4, 7, 10, 14, 17, 20, 23.0])
    mean, error = block_mean(scores, 3)
    assert mean == pytest.approx(means.mean())
    assert error == pytest.approx(means.std(ddof=1) / 8**0.5)


def test_block_means_see_the_dependence_that_ticks_hide() -> None:
    """Each score stands for 50 ticks: the naive error is 7 times too small."""
    rng = np.random.default_rng(3)
    scores = torch.from_numpy(np.repeat(rng.standard_normal((20, 40)), 50, axis=1))
    _, error = block_mean(scores, 50)
    assert error == pytest.approx(1 / 800**0.5, rel=0.1)


def test_too_few_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^scores \(1, 100\) hold fewer than 8 blocks of 13"):
        block_mean(torch.zeros(1, 100), 13)


def test_the_energy_score_is_its_definition() -> None:
    """Against the two expectations computed pair by pair."""
    draws = torch.randn(40, 5, 3, generator=torch.Generator().manual_seed(4)).double()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(5)).double()
    off = (draws - x).norm(dim=-1).mean(0)
    apart = (draws[:, None] - draws[None]).norm(dim=-1).mean((0, 1))
    assert energy_score(draws, x).tolist() == pytest.approx((off - 0.5 * apart).tolist())


def test_the_energy_score_of_one_variable_is_the_crps() -> None:
    draws = torch.randn(200, 7, generator=torch.Generator().manual_seed(6)).double()
    x = torch.linspace(-2, 2, 7).double()
    off = (draws - x).abs().mean(0)
    apart = (draws[:, None] - draws[None]).abs().mean((0, 1))
    assert crps(draws, x).tolist() == pytest.approx((off - 0.5 * apart).tolist())
    one = energy_score(draws[..., None], x[..., None])
    assert one.tolist() == pytest.approx(crps(draws, x).tolist())


def test_the_energy_score_sees_a_wrong_correlation() -> None:
    """Right margins, wrong dependence: no margin's CRPS can tell, the energy score does."""
    generator = torch.Generator().manual_seed(7)
    root = torch.linalg.cholesky(torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
    x = torch.randn(4000, 2, generator=generator) @ root.T
    right = torch.randn(100, 4000, 2, generator=generator) @ root.T
    wrong = torch.randn(100, 4000, 2, generator=generator)
    lead = energy_score(wrong, x) - energy_score(right, x)
    assert lead.mean() > 5 * lead.std() / len(lead) ** 0.5


def test_draws_of_other_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="samples must have shape"):
        energy_score(torch.zeros(1, 4, 2), torch.zeros(4, 2))
