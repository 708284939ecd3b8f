"""A dream that overflows is over, stands still, and takes no other dream with it."""

import warnings
from dataclasses import fields, replace

import pytest
import torch

from mambadream_lite.agent import PPO, PPOConfig
from mambadream_lite.agent import practice as practising
from mambadream_lite.dream import Dream, dream, end_explosions, quote
from mambadream_lite.market import Account, Market
from mambadream_lite.market.features import VOLATILITY
from mambadream_lite.model.recipes import CONTRACT, heston_market

N, H = 6, 8


@pytest.fixture
def path(model, market: Market) -> Dream:
    terms = {"n_dreams": N // 3, "horizon": H, "generator": torch.Generator().manual_seed(1)}
    return dream(model, market, **terms)


def exploded(path: Dream, row: int, tick: int) -> Dream:
    """The same dreams, one of which overflows at a tick: first its high, later all of it."""
    broken = replace(path, **{f.name: getattr(path, f.name).clone() for f in fields(path)})
    broken.high[row, tick:] = torch.inf
    broken.features[row, tick:, VOLATILITY] = 900.0
    broken.log_price[row, tick + 2 :] = torch.nan
    broken.reward[row, tick + 2 :] = torch.nan
    broken.risk[row, tick + 2 :] = torch.inf
    return broken


def test_dreams_that_stay_finite_are_left_alone(path: Dream) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert end_explosions(path) is path


@pytest.mark.parametrize("tick", [0, 3, H - 1])
def test_an_explosion_ends_its_dream_and_no_other(path: Dream, tick: int) -> None:
    with pytest.warns(UserWarning, match=f"^1 of {N} dreams left the finite numbers"):
        ended = end_explosions(exploded(path, 2, tick))
    others = torch.arange(N) != 2
    for f in fields(path):
        before, after = getattr(path, f.name), getattr(ended, f.name)
        assert torch.equal(after[others], before[others])
        assert after.isfinite().all()
    assert ended.alive[2].tolist() == [True] * tick + [False] * (H - tick)
    assert torch.equal(ended.features[2, :tick], path.features[2, :tick])
    assert (ended.log_price[2, tick:] == path.log_price[2, tick]).all()
    assert (ended.high[2, tick:] == path.log_price[2, tick].exp()).all()
    assert (ended.reward[2, tick:] == 0).all()
    last = path.features[2, tick - 1] if tick else path.start[2]
    assert (ended.features[2, tick:] == last).all()


def test_what_explodes_after_its_halt_was_over_already(path: Dream) -> None:
    broken = exploded(path, 1, 4)
    broken.alive[1, 2:] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ended = end_explosions(broken)
    assert torch.equal(ended.alive, broken.alive) and ended.high.isfinite().all()


def test_an_agent_learns_beside_an_explosion(model, monkeypatch) -> None:
    """The account refuses infinite prices; training goes on with the dreams that remain."""
    market = heston_market(3, 60, 5)

    def explode(*args, **kwargs) -> Dream:
        return exploded(dream(*args, **kwargs), 0, 2)

    levels = (-1.0, 0.0, 1.0)
    config = PPOConfig(levels=levels, contract_levels=levels)
    trader = PPO(model, Account(), config, seed=0, contract=CONTRACT)
    terms = {"n_rounds": 2, "n_starts": 3, "n_dreams": 2, "n_passes": 1}
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="finite numbers"):
        patch.setattr(practising, "dream", explode)
        curve = practising.dream_and_train(model, trader, market, H, **terms)
    assert all(torch.isfinite(torch.tensor(curve)))
    raw = dream(model, market, n_dreams=1, horizon=H, generator=torch.Generator().manual_seed(1))
    strike = CONTRACT.strikes(market.features)[:, -1]
    with pytest.raises(ValueError, match="must be finite"):
        trader.learn(quote(exploded(raw, 0, 2), CONTRACT, strike))
