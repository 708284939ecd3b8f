"""A small model, and hand-made paths to trade on."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mambadream_lite.dream import Dream
from mambadream_lite.market import HestonParams, Market, make_heston_market
from mambadream_lite.model import MambaWorldModel


@pytest.fixture(scope="session")
def market() -> Market:
    return make_heston_market(HestonParams(), 3, 60, seed=1)


@pytest.fixture(scope="session")
def model(market: Market) -> MambaWorldModel:
    torch.manual_seed(0)
    model = MambaWorldModel(d_model=16, d_state=8, n_components=3)
    model.fit_scaler(market)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def make_path() -> Callable[..., Dream]:
    """Paths with the given log prices (N, H + 1); nothing happens inside a bar."""

    def make(log_price: Tensor, *, reward: float = 0.0, risk: float = 1e-3) -> Dream:
        log_price = log_price.double()
        shape = (len(log_price), log_price.shape[1] - 1)
        ends = torch.stack([log_price[:, :-1], log_price[:, 1:]]).exp()
        return Dream(
            start=torch.zeros(shape[0], 6),
            features=torch.zeros(*shape, 6),
            reward=torch.full(shape, reward),
            risk=torch.full(shape, risk),
            alive=torch.ones(shape, dtype=torch.bool),
            log_price=log_price,
            high=ends.amax(0),
            low=ends.amin(0),
        )

    return make
