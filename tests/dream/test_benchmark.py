"""The benchmark times what it says it times."""

import pytest
import torch

from mambadream_lite.dream import dream, observe
from mambadream_lite.dream.benchmark import CONTESTANTS, roll, state_bytes
from mambadream_lite.dream.noise import Noise
from mambadream_lite.market import Market
from mambadream_lite.model import MambaWorldModel, TransformerWorldModel


@pytest.fixture
def model(market: Market) -> MambaWorldModel:
    torch.manual_seed(0)
    model = MambaWorldModel(d_model=32, d_state=8, n_components=2)
    torch.nn.init.normal_(model.head.skip.weight, std=0.05)
    model.fit_scaler(market)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("name", [n for n in CONTESTANTS if "mambapy" not in n])
@pytest.mark.parametrize("tile", [8, 100])
def test_every_contestant_dreams_the_same_dreams(name: str, tile: int, model, market) -> None:
    belief = observe(model, market.window(0, 20)).fork(8)
    generator = torch.Generator().manual_seed(3)
    known = dream(model, belief, n_dreams=1, horizon=6, generator=generator).features
    noise = Noise.seeded(torch.Generator().manual_seed(3), 6, 6, torch.device("cpu"))
    found = roll(CONTESTANTS[name], model, belief, noise, tile)
    torch.testing.assert_close(found, known, rtol=1e-4, atol=1e-5)


def test_bytes_of_state_are_counted(model, market: Market) -> None:
    belief = observe(model, market)
    inner, ssm, conv = 2 * 32, 8, 3
    assert (
        state_bytes(model, belief, 0) == 4 * inner * (ssm + conv) == state_bytes(model, belief, 9)
    )
    transformer = TransformerWorldModel(d_model=32, n_heads=2, d_ff=16)
    transformer.fit_scaler(market)
    belief = observe(transformer, market)  # of 60 ticks the last is not yet in the cache
    assert state_bytes(transformer, belief, 5) == 4 * 2 * 32 * (59 + 5)
