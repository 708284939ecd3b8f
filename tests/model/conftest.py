"""A small market and a small model with weights that matter, shared by the tests of the model."""

import pytest
import torch

from mambadream_lite.market import HestonParams, Market, make_heston_market
from mambadream_lite.model import MambaWorldModel


@pytest.fixture(scope="session")
def market() -> Market:
    return make_heston_market(HestonParams(), 4, 300, seed=1)


@pytest.fixture
def model(market: Market) -> MambaWorldModel:
    torch.manual_seed(0)
    model = MambaWorldModel(d_model=16, d_state=8, n_layers=2, n_components=3)
    for weight in (model.head.skip.weight, model.reward_head.weight):  # zero when new
        torch.nn.init.normal_(weight, std=0.1)
    model.fit_scaler(market)
    return model.eval()
