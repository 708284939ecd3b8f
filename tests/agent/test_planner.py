"""The planner's wishes, answers and life: by hand, by scipy, and tick by tick."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from mambadream_lite.agent import MPC, LetDrift, Objective, PolicyError, replay
from mambadream_lite.agent.mpc import base_rate
from mambadream_lite.dream import disagreement_halt, observe, quote, watch
from mambadream_lite.market import Account, AccountConfig, Market
from mambadream_lite.model import Ensemble, MambaWorldModel
from mambadream_lite.model.recipes import CONTRACT

SMALL = {"n_futures": 12, "horizon": 3, "actions": (-2.0, 0.0, 2.0)}
PAIRS = ((0.0, -5.0), (0.0, 0.0), (0.0, 5.0), (2.0, 0.0))


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_objectives_by_hand() -> None:
    growth = torch.tensor([[-0.3, -0.1, 0.2, 0.4], [0.0, 0.0, 0.0, 0.0]]).double()
    plain, error = Objective().value(growth)
    assert plain.tolist() == pytest.approx([0.05, 0.0])
    assert error[0].item() == pytest.approx(growth[0].std().item() / 2)
    mean, _ = Objective(kind="mean").value(growth)
    assert mean[0].item() == pytest.approx(growth[0].exp().mean().item() - 1)
    careful, _ = Objective(cvar_weight=0.5, cvar_share=0.25).value(growth)
    assert careful.tolist() == pytest.approx([0.05 - 0.5 * 0.3, 0.0])


def test_ruin_is_refused_unless_it_is_allowed() -> None:
    growth = torch.tensor([0.5, 0.5, 0.5, -torch.inf])
    assert Objective().value(growth)[0] == -torch.inf
    allowed, _ = Objective(max_ruin=0.25).value(growth)
    assert allowed.item() == pytest.approx((1.5 + torch.tensor(1e-3).log().item()) / 4)
    mean, _ = Objective(kind="mean", max_ruin=0.25).value(growth)
    assert mean.item() == pytest.approx((3 * (torch.tensor(0.5).exp().item() - 1) - 1) / 4)


@pytest.mark.parametrize("objective", [Objective(max_ruin=1.0), Objective("mean", max_ruin=1.0)])
def test_a_broken_future_is_worth_minus_infinity(objective: Objective) -> None:
    assert objective.value(torch.tensor([9.0, torch.nan]))[0] == -torch.inf


@pytest.mark.parametrize("bad", [{"kind": "sharpe"}, {"cvar_share": 0.0}, {"max_ruin": 2.0}])
def test_objectives_that_make_no_sense_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Objective(**bad)


def test_mean_profit_takes_all_the_leverage_and_log_growth_does_not(model, make_path) -> None:
    moves = torch.tensor([[0.0, 0.12], [0.0, -0.10]])
    chosen = {}
    for kind in ("mean", "log growth"):
        terms = {"actions": (0.0, 1.0, 5.0), "expected_reward": False}
        chosen[kind] = MPC(model, objective=Objective(kind), **terms).score(make_path(moves)).action
    assert chosen == {"mean": 5.0, "log growth": 1.0}


def test_the_interval_is_wilsons(model, make_path) -> None:
    moves = torch.tensor([[0.0, 0.01]] * 64 + [[0.0, -0.01]] * 36)
    decision = MPC(model, actions=(0.0, 1.0)).score(make_path(moves))
    theirs = binomtest(64, 100).proportion_ci(0.95, method="wilson")
    assert decision.interval(1.0) == pytest.approx((theirs.low, theirs.high), rel=1e-6)


def test_a_decision_explains_itself(model, make_path) -> None:
    path = make_path(torch.tensor([[0.0, 0.02]] * 19 + [[0.0, -0.06]]), reward=0.016, risk=0.02)
    past = Market(
        features=torch.zeros(1, 3, 6),
        price=torch.tensor([[100.0, 101, 100, 99]]),
        high=torch.full((1, 3), 101.0),
        low=torch.full((1, 3), 99.0),
        bar=1 / 252,
        time=np.arange(3),
    )
    account = AccountConfig(half_spread=0.0, fee=0.0)
    mpc = MPC(model, actions=(-1.0, 0.0, 1.0), account=account, horizon=1, history=past)
    decision = mpc.score(path)
    i = decision.of(1.0)
    assert decision.base_rate.tolist() == pytest.approx([2 / 3, 0, 1 / 3])
    move = torch.tensor([0.02, -0.06]).expm1().tolist()
    assert decision.mean[i].item() == pytest.approx((19 * move[0] + move[1]) / 20, rel=1e-5)
    assert decision.cvar[i].item() == pytest.approx(-move[1], rel=1e-5)
    assert decision.value[i].item() == pytest.approx(0.016 - 0.0002, rel=1e-5)
    assert (decision.alive, decision.n_futures) == (20, 20)
    shown = decision._repr_html_()
    assert shown.count("chosen") == 2 and "+1x" in shown and "base rate" in shown
    assert list(decision.table().index) == ["-1x", "+0x", "+1x"]


def test_base_rates_of_shorts_are_counted_too(market) -> None:
    free = AccountConfig(half_spread=0.0, fee=0.0)
    falls = (market.price[:, 4:] < market.price[:, :-4]).double().mean().item()
    assert base_rate(market, 4, free, -1.0) == pytest.approx(falls)


def test_many_markets_at_once_decide_as_each_alone(model, market) -> None:
    mpc = MPC(model, **SMALL)
    futures = mpc.imagine(observe(model, market), None, generator())
    position = torch.tensor([0.0, 2.0, -2.0]).double()
    chosen = mpc.choose(futures, position)
    for i in range(3):
        rows = slice(12 * i, 12 * i + 12)
        own = type(futures)(**{k: v[rows] for k, v in vars(futures).items()})
        assert mpc.score(own, position[i].item()).action == chosen[i].item()


def test_a_planner_lives_through_a_market(model, market) -> None:
    """Its belief after every tick is what reading all of history again gives."""
    warmup, mpc = 30, MPC(model, **SMALL, expected_reward=False)
    planner = mpc.live(market.window(0, warmup), generator())
    episode = replay(planner, watch(model, market, warmup), Account())
    assert episode.leverage.shape == (3, 30) and episode.leverage.unique().numel() > 1
    last = observe(model, market.window(0, 59))
    torch.testing.assert_close(planner.belief.hidden[0].ssm, last.hidden[0].ssm)
    torch.testing.assert_close(planner.belief.log_price, last.log_price)


def test_a_planner_that_starts_elsewhere_is_refused(model, market) -> None:
    mpc = MPC(model, **SMALL)
    with pytest.raises(PolicyError, match="observation does not begin where"):
        replay(mpc.live(market.window(0, 20), generator()), watch(model, market, 30), Account())
    planner = mpc.live(market.window(0, 30), generator())
    replay(planner, watch(model, market, 30), Account())
    with pytest.raises(PolicyError, match="observation is of tick 0, the planner waits for 30"):
        replay(planner, watch(model, market, 30), Account())


def test_both_instruments_are_planned_and_traded(model, market) -> None:
    warmup = 30
    mpc = MPC(model, n_futures=8, horizon=3, actions=PAIRS, contract=CONTRACT)
    before = market.window(0, warmup)
    strike = CONTRACT.strikes(before.features)[:, -1]
    path = quote(watch(model, market, warmup), CONTRACT, strike)
    episode = replay(mpc.live(before, generator()), path, Account())
    traded = torch.stack([episode.leverage, episode.contracts], dim=-1).view(-1, 2)
    assert {tuple(pair) for pair in traded.tolist()} <= set(PAIRS)
    assert episode.contracts.any()
    one = mpc.decide(market.features[:1], generator=generator(), strike=strike[:1])
    assert one.action in PAIRS and one.of(one.action) in range(4)
    with pytest.raises(ValueError, match="^strike of the volatility contract"):
        mpc.decide(market.features[:1], generator=generator())


def test_members_that_disagree_stop_all_trading(market) -> None:
    members = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        member = MambaWorldModel(d_model=8, d_state=2, n_components=2)
        member.fit_scaler(market)
        members.append(member.eval().requires_grad_(False))
    ensemble = Ensemble(members)
    mpc = MPC(ensemble, **SMALL, halt=disagreement_halt(1e-9))
    with pytest.warns(UserWarning, match="^halt: all"):
        decision = mpc.decide(market.features[:1], 2.0, generator=generator())
    assert decision.action == 0.0 and decision.alive == 0
    assert "12 of them halted" in str(decision)


def test_a_terminal_value_is_added(model, make_path) -> None:
    path = make_path(torch.zeros(5, 4), reward=1e-3, risk=1e-3)
    last = {}

    def closing(futures, held):
        last["shape"] = held.shape
        return -0.01 * held.abs().sum(1, keepdim=True).expand(-1, len(futures))

    plain = MPC(model, actions=(0.0, 2.0), horizon=3)
    charged = MPC(model, actions=(0.0, 2.0), horizon=3, terminal=closing)
    gap = plain.score(path).value - charged.score(path).value
    assert gap.tolist() == pytest.approx([0.0, 0.02]) and last["shape"] == (2, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": PAIRS}, "^actions must be pairs if and only if"),
        ({"contract": CONTRACT}, "^actions must be pairs if and only if"),
        ({"search": -1}, "^search must not be negative"),
        ({"expected_reward": False, "terminal": len}, "^search must not be negative"),
        ({"objective": Objective("mean")}, '^objective must be "log growth"'),
    ],
)
def test_settings_that_do_not_go_together_are_refused(model, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        MPC(model, **(SMALL | changes))


def test_a_level_that_is_held_is_left_to_drift() -> None:
    class Wants:
        def act(self, observation, state, generator):
            return torch.tensor([10.0, 10.0, -3.0, 0.0]).double()

    state = Account().open(4, torch.tensor([9.0, 4.0, -3.2, 0.2]).double())
    rule = LetDrift(Wants(), (-10.0, -3.0, 0.0, 3.0, 10.0))
    assert rule.act(None, state, None).tolist() == pytest.approx([9.0, 10.0, -3.2, 0.2])
    state = replace(state, leverage=torch.tensor([12.0, 0.0, -50.0, 0.0]).double())
    assert rule.act(None, state, None).tolist() == pytest.approx([10.0, 10.0, -3.0, 0.0])
