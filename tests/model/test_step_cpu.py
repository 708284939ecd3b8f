"""The fused step is the model's own forward pass, tick by tick, in place."""

import pytest
import torch

from mambadream_lite.market import Market
from mambadream_lite.model import Ensemble, MambaWorldModel
from mambadream_lite.model.step_cpu import FusedStep
from mambadream_lite.model.world_model import EagerStep


def build(seed: int = 0, **sizes) -> MambaWorldModel:
    torch.manual_seed(seed)
    model = MambaWorldModel(d_model=16, d_state=4, n_components=3, **sizes)
    with torch.no_grad():  # heads start near zero; spread them, so that errors would show
        for weight in (model.head.out.weight, model.head.skip.weight, model.reward_head.weight):
            weight.normal_(std=0.2)
    return model.eval()


@pytest.fixture
def start(market: Market):
    def begin(model):
        model.fit_scaler(market) if isinstance(model, MambaWorldModel) else None
        action = torch.zeros(len(market.features), 20, model.config["d_action"])
        with torch.no_grad():
            return model(market.features[:, :20], None, action if action.shape[-1] else None)[2]

    return begin


@pytest.mark.parametrize(
    "sizes", [{}, {"n_layers": 2}, {"d_action": 2}, {"n_components": 1}], ids=str
)
def test_ten_steps_are_ten_ticks_of_the_model(sizes: dict, market: Market, start) -> None:
    sizes = {"n_components": 3} | sizes
    torch.manual_seed(0)
    model = MambaWorldModel(d_model=16, d_state=4, **sizes)
    with torch.no_grad():
        model.head.out.weight.normal_(std=0.2)
        model.head.skip.weight.normal_(std=0.2)
        model.reward_head.weight.normal_(std=0.2)
        hidden = start(model)
        fused, eager = FusedStep(model, hidden), EagerStep(model, hidden)
        generator = torch.Generator().manual_seed(1)
        for t in range(20, 30):
            x, a = market.features[:, t], None
            if sizes.get("d_action"):
                a = torch.randn(len(x), 2, generator=generator)
            (law, reward, risk), (known, its_reward, its_risk) = fused(x, a), eager(x, a)
            ahead = market.features[:, t + 1]
            close = {"rtol": 1e-4, "atol": 1e-5}
            torch.testing.assert_close(law.log_prob(ahead), known.log_prob(ahead), **close)
            torch.testing.assert_close(reward, its_reward, rtol=1e-4, atol=1e-8)
            torch.testing.assert_close(risk, its_risk, rtol=1e-4, atol=0)
            torch.testing.assert_close(risk, known.stddev[:, 0] * model.velocity_unit)
            u, noise = torch.rand(len(x)), torch.randn(len(x), 6)
            for temperature in (1.0, 0.5, 2.0, 0.0):
                torch.testing.assert_close(
                    law.draw(u, noise, temperature), known.draw(u, noise, temperature), **close
                )
    for a, b in zip(fused.hidden, eager.hidden, strict=True):
        torch.testing.assert_close(a.ssm, b.ssm, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(a.conv, b.conv, rtol=1e-4, atol=1e-6)


def test_the_states_it_started_from_stay_as_they_were(market: Market, start) -> None:
    model = build()
    hidden = start(model)
    before = [(s.conv.clone(), s.ssm.clone()) for s in hidden]
    with torch.no_grad():
        step = model.stepper(hidden, 10)
        step(market.features[:, 20])
    assert isinstance(step, FusedStep)
    for state, (conv, ssm) in zip(hidden, before, strict=True):
        assert torch.equal(state.conv, conv) and torch.equal(state.ssm, ssm)


def test_who_wants_a_gradient_gets_the_eager_step(market: Market, start) -> None:
    model = build()
    hidden = start(model)
    step = model.stepper(hidden, 10)
    assert isinstance(step, EagerStep)
    law, _, _ = step(market.features[:, 20])
    law.log_prob(market.features[:, 21]).sum().backward()
    assert model.embed.weight.grad.abs().sum() > 0


def test_a_model_without_a_mixture_steps_too(market: Market) -> None:
    torch.manual_seed(0)
    model = MambaWorldModel(d_model=16, d_state=4, head="linear")
    model.fit_scaler(market)
    with torch.no_grad():
        law, _, hidden = model(market.features[:, :20])
        step = model.stepper(hidden, 10)
        known, _, _ = model(market.features[:, 20], hidden)
        torch.testing.assert_close(step(market.features[:, 20])[0].mean, known.mean)


def test_an_ensemble_steps_its_members_and_draws_from_their_mixture(market: Market) -> None:
    members = [build(seed) for seed in (0, 1, 2)]
    for member in members:
        member.fit_scaler(market)
    ensemble = Ensemble(members)
    x = market.features[:, 20]
    with torch.no_grad():
        hidden = ensemble(market.features[:, :20])[2]
        law, reward, risk = ensemble.stepper(hidden, 1)(x)
        known, its_reward, _ = ensemble(x, hidden)
        torch.testing.assert_close(reward, its_reward, rtol=1e-4, atol=1e-9)
        torch.testing.assert_close(risk, known.stddev[:, 0] * ensemble.velocity_unit)
        ahead = market.features[:, 21]
        torch.testing.assert_close(law.log_prob(ahead), known.log_prob(ahead))
        torch.testing.assert_close(law.disagreement, known.disagreement)
        noise, n = torch.randn(len(x), 6), len(x)
        for i, member in enumerate(law.members):  # u in the i-th third is the i-th member's
            drawn = law.draw(torch.full((n,), (i + 0.4) / 3), noise)
            torch.testing.assert_close(drawn, member.draw(torch.full((n,), 0.4), noise))
