"""The old rules and the loop they trade in, against computations by hand."""

from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch

from mambadream_lite.agent import (
    BuyAndHold,
    Flat,
    MomentRule,
    MovingAverageRule,
    Observation,
    PolicyError,
    replay,
    trade_log,
)
from mambadream_lite.agent.trading import bar_of, observation_at
from mambadream_lite.dream import Dream, Quoted, watch
from mambadream_lite.market import Account, AccountConfig, AccountState

FREE = AccountConfig(half_spread=0.0, fee=0.0)
DEAR = AccountConfig(half_spread=10.0, fee=0.0)


@dataclass
class Constant:
    """Back to the same leverage before each tick; remembers what it was shown."""

    leverage: float

    def __post_init__(self) -> None:
        self.seen: list[Observation] = []

    def act(self, observation: Observation, state: AccountState, generator) -> torch.Tensor:
        self.seen.append(observation)
        return torch.full_like(state.equity, self.leverage)


def prices(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64).log()


@pytest.mark.parametrize("leverage", [-2.0, 1.0, 3.0])
def test_a_constant_leverage_on_the_market_compounds_its_returns(model, market, leverage) -> None:
    episode = replay(Constant(leverage), watch(model, market, 20), Account(FREE))
    returns = (market.price[:, 21:] / market.price[:, 20:-1] - 1).numpy()
    expected = np.cumprod(1 + leverage * returns, axis=1)
    assert np.allclose(episode.equity[:, 1:], expected, rtol=1e-10)
    assert (episode.equity[:, 0] == 1).all()
    assert (episode.leverage == leverage).all()
    assert not episode.ruined.any()


def test_buy_and_hold_buys_once(make_path) -> None:
    path = make_path(prices(100, 110, 90, 120))
    episode = replay(BuyAndHold(2.0), path, Account(DEAR))
    paid = 1 - 2 * 10e-4
    expected = [1.0] + [paid * (1 + 2 * (price / 100 - 1)) for price in (110, 90, 120)]
    assert episode.equity[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_moving_average_is_long_above_and_short_below(make_path) -> None:
    path = make_path(prices(10, 11, 12, 10, 10, 14, 14))
    episode = replay(MovingAverageRule(window=3, leverage=1.0), path, Account(FREE))
    # known before each tick: too few, too few, 12 above (10 11 12), 10 below (11 12 10),
    # 10 below (12 10 10), 14 above (10 10 14): the last price is in its own average
    assert episode.leverage[0].tolist() == [0, 0, 1, -1, -1, 1]


def test_moving_average_stays_out_of_a_price_that_stands_still(make_path) -> None:
    episode = replay(MovingAverageRule(window=2), make_path(prices(1, 1, 1, 1)), Account(FREE))
    assert (episode.leverage == 0).all()


def test_a_window_of_one_tick_is_refused() -> None:
    with pytest.raises(ValueError, match="^window must be at least 2 ticks, got 1"):
        MovingAverageRule(window=1)


def test_a_policy_sees_nothing_of_the_tick_it_decides_on(model, market) -> None:
    """Both futures agree up to tick 10; so must all that is shown before tick 10."""
    path = watch(model, market, 20)
    altered = {
        name: torch.cat([getattr(path, name)[:, :10], getattr(path, name)[:, 10:] + 1], dim=1)
        for name in ("features", "high", "low")
    }
    tail = torch.cat([path.log_price[:, :11], path.log_price[:, 11:] + 1], dim=1)
    first, second = Constant(0.0), Constant(0.0)
    replay(first, path, Account(FREE))
    replay(second, replace(path, **altered, log_price=tail), Account(FREE))
    for h in (0, 5, 10):
        for name in ("features", "reward", "risk", "log_price"):
            assert torch.equal(getattr(first.seen[h], name), getattr(second.seen[h], name))
    assert not torch.equal(first.seen[11].features, second.seen[11].features)


def test_before_the_first_tick_the_last_closed_one_is_shown(model, market) -> None:
    path = watch(model, market, 20)
    assert torch.equal(observation_at(path, 0).features, market.features[:, 19])
    assert torch.equal(observation_at(path, 3).features, market.features[:, 22])
    assert torch.equal(observation_at(path, 3).log_price, market.price[:, 20:24].log())


def test_bars_are_told_over_their_open(model, market) -> None:
    log_return, high, low = bar_of(watch(model, market, 20), 7)
    assert torch.allclose(log_return, market.log_return[:, 27], atol=1e-12)
    assert torch.allclose(high, market.high[:, 27] / market.price[:, 27])
    assert torch.allclose(low, market.low[:, 27] / market.price[:, 27])


def test_a_halted_dream_is_traded_flat(make_path) -> None:
    path = make_path(prices(100, 110, 121, 60))
    path.alive[0, 2:] = False
    episode = replay(Constant(1.0), path, Account(DEAR))
    assert episode.leverage[0].tolist() == [1, 1, 0]
    # getting in, then out of what the position has become (1: it was all in the asset)
    assert episode.equity[0, -1].item() == pytest.approx(0.999 * 1.21 * 0.999, rel=1e-12)


def test_a_ruined_account_asks_for_nothing_more(make_path) -> None:
    path = make_path(prices(100, 80, 160, 320))
    episode = replay(Constant(10.0), path, Account(FREE))
    assert episode.equity[0].tolist() == [1, 0, 0, 0]
    assert episode.ruined[0].tolist() == [False, True, True, True]
    assert episode.leverage[0].tolist() == [10, 0, 0]


def test_a_replay_may_start_in_a_position(make_path) -> None:
    path = make_path(prices(100, 100, 100))
    into, already = (
        replay(Constant(3.0), path, Account(DEAR), leverage=x).equity[0, -1].item()
        for x in (0.0, 3.0)
    )
    assert into == pytest.approx(1 - 3 * 10e-4, rel=1e-12)
    assert already == 1


# --- two instruments and the trade log ----------------------------------------------------------


class Fixed:
    """The same two targets at every tick."""

    def __init__(self, asset: float, contracts: float) -> None:
        self.target = torch.tensor([asset, contracts])

    def act(self, observation, state, generator):
        return self.target.expand(len(state.equity), 2)


def with_payoff(path: Dream, payoff: torch.Tensor) -> Quoted:
    same = {f.name: getattr(path, f.name) for f in fields(Dream)}
    strike = torch.full_like(path.log_price, 0.04)
    return Quoted(**same, strike=strike, payoff=payoff)


def test_contracts_are_paid_by_the_tick_that_follows(make_path) -> None:
    path = make_path(prices(100, 100, 100))
    config = AccountConfig(half_spread=0.0, fee=0.0, contract_fee=10.0)
    payoff = torch.tensor([[0.02, -0.01]])
    episode = replay(Fixed(0.0, 5.0), with_payoff(path, payoff), Account(config))
    after = [1.0, 0.995 * 1.1, 0.995 * 1.1 * 0.995 * 0.95]
    assert episode.equity[0].tolist() == pytest.approx(after, rel=1e-6)
    assert episode.contracts.tolist() == [[5.0, 5.0]]


def test_a_trader_of_contracts_needs_quotes(make_path) -> None:
    with pytest.raises(ValueError, match=r"^path must be from quote\(\)"):
        replay(Fixed(0.0, 5.0), make_path(prices(100, 100)), Account(FREE))


def test_the_trade_log_tells_an_account_from_start_to_ruin(make_path) -> None:
    path = make_path(prices(100, 110, 110, 50, 60))
    config = AccountConfig(half_spread=5.0, fee=5.0, contract_fee=10.0)
    payoff = torch.tensor([[0.01, 0.0, 0.0, 0.0]], dtype=torch.float64)
    episode = replay(Fixed(2.0, 1.0), with_payoff(path, payoff), Account(config))
    log = trade_log(episode, path)
    events = ["buy", "contract"]
    events += ["buy", "contract"]  # what it earned is more than what 2x grew by: less than 2x
    events += ["contract", "liquidation"]  # still at 2x: nothing to trade; then 110 to 50
    assert log["event"].tolist() == events
    first = log.iloc[0]
    assert (first["price"], first["notional"]) == (pytest.approx(100), 2.0)
    assert first["cost"] == pytest.approx(2 * 10e-4)
    assert log.iloc[1]["pnl"] == pytest.approx((1 - 2 * 10e-4 - 10e-4) * 0.01)
    assert log["equity"].iloc[-1] == 0 and log["event"].iloc[-1] == "liquidation"
    assert log["tick"].iloc[-1] == 2  # and nothing afterwards
    # costs, settlements and what the asset earned add up to what became of the account
    earned = episode.flows.asset_pnl[0].sum().item()
    assert 1 + earned + log["pnl"].sum() - log["cost"].sum() == pytest.approx(0, abs=1e-12)


def test_who_does_not_trade_has_an_empty_log(make_path) -> None:
    path = make_path(prices(100, 110))
    log = trade_log(replay(Constant(0.0), path, Account(FREE)), path)
    assert len(log) == 0 and "notional" in log.columns


# --- the rules ----------------------------------------------------------------------------------


def observed(reward: float, risk: float, n: int = 3) -> Observation:
    column = torch.ones(n, dtype=torch.float64)
    return Observation(torch.zeros(n, 6), reward * column, risk * column, torch.zeros(n, 1))


def test_flat_stays_flat() -> None:
    state = Account(FREE).open(3, 2.0)
    assert Flat().act(observed(1.0, 1e-3), state, None).tolist() == [0, 0, 0]


def test_the_moment_rule_bets_mean_over_variance_within_its_limit() -> None:
    state = Account(FREE).open(3)
    target = MomentRule(fraction=0.5).act(observed(1e-4, 2e-3), state, None)
    assert target.tolist() == pytest.approx([0.5 * 1e-4 / 4e-6] * 3)
    capped = MomentRule(limit=7.0).act(observed(-1e-4, 1e-3), state, None)
    assert capped.tolist() == [-7, -7, -7]


def test_the_moment_rule_moves_only_when_it_is_off_by_more_than_its_band() -> None:
    state = Account(FREE).open(2, torch.tensor([20.0, 24.0], dtype=torch.float64))
    target = MomentRule(band=3.0).act(observed(2.5e-5, 1e-3, 2), state, None)  # ideal: 25
    assert target.tolist() == pytest.approx([25.0, 24.0])


@pytest.mark.parametrize("terms", [{"band": -1.0}, {"limit": 0.0}])
def test_impossible_rules_are_refused(terms: dict) -> None:
    with pytest.raises(ValueError, match="^band must not be negative and limit positive"):
        MomentRule(**terms)


def test_a_policy_that_answers_for_other_accounts_is_refused(make_path) -> None:
    class Confused:
        def act(self, observation, state, generator):
            return torch.zeros(len(state.equity), 3)

    with pytest.raises(ValueError, match=r"^policy must return \(1,\) or \(1, 2\), got \(1, 3\)"):
        replay(Confused(), make_path(prices(100, 100)), Account(FREE))


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_policy_that_fails_hands_over_what_was_traded(make_path, failing: int) -> None:
    @dataclass
    class Fails:
        ticks: int

        def act(self, observation: Observation, state: AccountState, generator) -> torch.Tensor:
            if observation.log_price.shape[1] > self.ticks:
                raise ZeroDivisionError("by nothing")
            return torch.full_like(state.equity, 2.0)

    path = make_path(prices(100, 110, 90, 120))
    whole = replay(Fails(3), path, Account(DEAR))
    with pytest.raises(PolicyError, match=f"before tick {failing} of 3: Zero.*: by noth") as caught:
        replay(Fails(failing), path, Account(DEAR))
    error = caught.value
    assert isinstance(error.__cause__, ZeroDivisionError) and error.tick == failing
    assert torch.equal(error.episode.equity, whole.equity[:, : failing + 1])
    assert torch.equal(error.episode.ruined, whole.ruined[:, : failing + 1])
    assert torch.equal(error.episode.leverage, whole.leverage[:, :failing])
    for f in fields(whole.flows):
        kept, all_of_it = (getattr(e.flows, f.name) for e in (error.episode, whole))
        assert torch.equal(kept, all_of_it[:, :failing])
    assert len(trade_log(error.episode, path)) == failing
