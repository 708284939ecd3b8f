"""The world model: raw units in and out, one tick or many, and refusals that name names."""

import pytest
import torch

from mambadream_lite.market import Market
from mambadream_lite.market.features import VELOCITY
from mambadream_lite.model import MambaWorldModel


def actor() -> MambaWorldModel:
    torch.manual_seed(0)
    return MambaWorldModel(d_model=8, d_state=4, d_action=2)


@torch.no_grad()
def test_ticks_one_by_one_give_what_the_sequence_gives(model, market: Market) -> None:
    x = market.features[:, :60]
    law, reward, last = model(x)
    hidden = None
    for t in range(x.shape[1]):
        law_t, reward_t, hidden = model(x[:, t], hidden)
        assert torch.allclose(law_t.mean, law.mean[:, t], atol=1e-4)
        assert torch.allclose(law_t.stddev, law.stddev[:, t], rtol=1e-4)
        assert torch.allclose(reward_t, reward[:, t], atol=1e-4 * model.velocity_unit)
    for a, b in zip(hidden, last, strict=True):
        assert torch.allclose(a.ssm, b.ssm, atol=1e-4)


@torch.no_grad()
def test_no_prediction_knows_a_later_tick(model, market: Market) -> None:
    x = market.features[:, :40]
    changed = x.clone()
    changed[:, 25:] += 1
    law, reward, _ = model(x)
    other, other_reward, _ = model(changed)
    assert torch.equal(law.mean[:, :25], other.mean[:, :25])
    assert torch.equal(reward[:, :25], other_reward[:, :25])
    assert not torch.equal(law.mean[:, 25:], other.mean[:, 25:])


@torch.no_grad()
def test_raw_units_go_in_and_come_out(model, market: Market) -> None:
    """The same model on data scaled beforehand says the same, scaled."""
    x, mean, std = market.features[:, :30], model.feature_mean.clone(), model.feature_std.clone()
    law, reward, _ = model(x)
    raw_mean, raw_sd = law.mean, law.stddev
    model.feature_mean.zero_()
    model.feature_std.fill_(1)
    bare, bare_reward, _ = model((x - mean) / std)
    assert torch.allclose(raw_mean, bare.mean * std + mean, atol=1e-4)
    assert torch.allclose(raw_sd, bare.stddev * std, rtol=1e-4)
    assert torch.allclose(reward, bare_reward * std[VELOCITY], rtol=1e-4)


def test_scaler_is_fitted_on_the_training_market(model, market: Market) -> None:
    flat = market.features.reshape(-1, 6)
    assert torch.allclose(model.feature_mean, flat.mean(0), atol=1e-4)
    assert torch.allclose(model.feature_std, flat.std(0), rtol=1e-4)
    assert float(model.bar) == market.bar


@torch.no_grad()
def test_reward_is_a_return_in_proportion_to_its_risk(model, market: Market) -> None:
    model.reward_head.weight.zero_()
    model.reward_head.bias.fill_(0.3)
    law, reward, _ = model(market.features)
    sd = law.stddev[..., VELOCITY] * 0.2 * market.bar**0.5  # of the next log return
    assert torch.allclose(reward, 0.3 * sd, rtol=1e-4)
    assert sd.max() > 1.1 * sd.min()  # not one risk at all times


def test_the_reward_does_not_teach_the_risk(model, market: Market) -> None:
    _, reward, _ = model(market.features[:, :20])
    weights = (model.head.out.weight, model.reward_head.weight)
    of_law, of_reward = torch.autograd.grad(reward.square().sum(), weights, allow_unused=True)
    assert of_law is None
    assert of_reward.abs().sum() > 0


@torch.no_grad()
def test_inputs_far_outside_the_training_data_are_not_told_apart(model, market: Market) -> None:
    inside, far, further = (
        model(model.feature_mean + sds * model.feature_std.expand(1, 5, 6))[0].mean
        for sds in (7.0, 9.0, 1e6)
    )
    assert torch.equal(far, further)
    assert not torch.allclose(inside, far)


@torch.no_grad()
def test_an_action_changes_what_comes_next(market: Market) -> None:
    model, x = actor(), market.features[:, :5]
    calm, buy = torch.zeros(4, 5, 2), torch.ones(4, 5, 2)
    assert not torch.allclose(model(x, action=calm)[0].mean, model(x, action=buy)[0].mean)


@pytest.mark.parametrize("shape", [(2, 5, 5), (2, 7), (6,), (1, 2, 3, 6)])
def test_a_wrong_number_of_features_is_refused(model, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^x must have shape \(B, T, 6\) or \(B, 6\), got"):
        model(torch.zeros(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(model, value: float) -> None:
    x = torch.zeros(2, 5, 6)
    x[1, 2, 3] = value
    with pytest.raises(ValueError, match="^x must be finite, but 1 of its values"):
        model(x)


def test_an_action_that_the_model_does_not_take_is_refused(model) -> None:
    with pytest.raises(ValueError, match="^action must be given if and only if d_action"):
        model(torch.zeros(2, 5, 6), action=torch.zeros(2, 5, 1))


def test_a_missing_action_is_refused() -> None:
    with pytest.raises(ValueError, match="^action must be given if and only if d_action"):
        actor()(torch.zeros(2, 5, 6))


@pytest.mark.parametrize("shape", [(2, 5, 1), (2, 4, 2), (2, 2)])
def test_an_action_of_a_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^action must have shape \(2, 5, 2\)"):
        actor()(torch.zeros(2, 5, 6), action=torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "value"),
    [("d_input", 0), ("n_layers", 0), ("n_components", 0), ("d_action", -1), ("d_state", 0)],
)
def test_an_impossible_size_is_named(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be at least.*{value}"):
        MambaWorldModel(**{name: value})


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(ValueError, match="^head must be one of.*'transformer'"):
        MambaWorldModel(head="transformer")


@torch.no_grad()
def test_the_linear_head_has_one_width_for_all_times(market: Market) -> None:
    torch.manual_seed(0)
    model = MambaWorldModel(d_model=8, d_state=4, head="linear")
    model.fit_scaler(market)
    law, _, _ = model(market.features[:, :20])
    assert torch.allclose(law.stddev, model.feature_std.expand_as(law.stddev))
