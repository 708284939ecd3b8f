"""Calibration of forecasters that are true, and of some that are not."""

import pytest
import torch

from mambadream_lite.judge.calibration import coverage, sum_pit
from mambadream_lite.model import MambaWorldModel
from mambadream_lite.model.heads import MixtureOfGaussians
from mambadream_lite.model.recipes import heston_market
from mambadream_lite.model.world_model import EagerStep


@pytest.fixture
def levels() -> torch.Tensor:
    return torch.rand(40, 2000, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("stated", [0.5, 0.9, 0.99])
def test_a_true_interval_holds_what_it_states(levels, stated: float) -> None:
    found = coverage(levels, stated)
    assert found.low < stated < found.high
    assert found.share == pytest.approx(stated, abs=4 * found.error)
    binomial = (stated * (1 - stated) / levels.numel()) ** 0.5
    assert found.error == pytest.approx(binomial, rel=0.35)
    assert found.high - found.low == pytest.approx(3.92 * binomial, rel=0.05)


def test_a_forecaster_too_sure_of_itself_is_found(levels) -> None:
    normal = torch.distributions.Normal(0.0, 1.0)
    narrow = normal.cdf(1.2 * normal.icdf(levels.clamp(1e-6, 1 - 1e-6)))
    found = coverage(narrow, 0.9)
    assert found.high < 0.88  # a normal 1.2 times as wide leaves 17 % outside


class Toy(MambaWorldModel):
    """Knows the market's next velocity: independent normal draws of sd ``sd``; no memory."""

    def __init__(self, sd: float) -> None:
        super().__init__(d_model=8, d_state=2)
        self.sd = sd

    def forward(self, x, hidden=None, action=None):
        zero = torch.zeros(*x.shape[:-1], 1, 6)
        factor = torch.eye(6).expand(*x.shape[:-1], 1, 6, 6) / self.sd
        law = MixtureOfGaussians(zero[..., 0], zero, factor, torch.zeros(6), torch.ones(6))
        hidden = super().forward(x, hidden)[2]
        return law, zero[..., 0, 0], hidden

    def stepper(self, hidden, horizon):
        return EagerStep(self, hidden)  # the fused step would go round ``forward``


@pytest.mark.parametrize(("sd", "variance"), [(1.0, 1 / 12), (2.0, None)])
def test_the_rank_of_a_sum_is_uniform_exactly_if_the_law_is_true(sd: float, variance) -> None:
    market = heston_market(1500, 20, seed=91)
    draws = torch.randn(1500, 20, generator=torch.Generator().manual_seed(92)).double()
    price = (
        100 * torch.cat([torch.zeros(1500, 1), (draws * market.velocity_unit).cumsum(1)], 1).exp()
    )
    truth = type(market)(
        features=market.features,
        price=price,
        high=market.high,
        low=market.low,
        bar=market.bar,
        time=market.time,
    )
    generator = torch.Generator().manual_seed(93)
    u = sum_pit(Toy(sd), truth, horizon=10, n_dreams=19, generator=generator)
    assert u.shape == (1500,) and 0 <= u.min() and u.max() <= 1
    assert u.mean().item() == pytest.approx(0.5, abs=4 * (1 / 12 / 1500) ** 0.5)
    if variance is None:  # dreams twice as wide as the truth: a hump
        assert u.var().item() < 0.05
    else:
        assert u.var().item() == pytest.approx(variance, rel=0.12)
