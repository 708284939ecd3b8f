"""A market and a small model whose dreams depend on where they start."""

import pytest
import torch

from mambadream_lite.market import HestonParams, Market, make_heston_market
from mambadream_lite.model import MambaWorldModel


@pytest.fixture(scope="session")
def market() -> Market:
    return make_heston_market(HestonParams(), 3, 60, seed=1)


def build(market: Market, d_action: int = 0) -> MambaWorldModel:
    torch.manual_seed(0)
    model = MambaWorldModel(d_model=16, d_state=8, n_components=3, d_action=d_action)
    # zero when new; small, or an untrained model's dreams run away from it
    torch.nn.init.normal_(model.head.skip.weight, std=0.02)
    torch.nn.init.normal_(model.reward_head.weight, std=0.1)
    model.fit_scaler(market)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def model(market: Market) -> MambaWorldModel:
    return build(market)


@pytest.fixture(scope="session")
def actor(market: Market) -> MambaWorldModel:
    """A model whose next tick depends on an action of two numbers."""
    return build(market, d_action=2)
