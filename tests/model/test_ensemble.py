"""Ensembles, held to the definition of a mixture and to their members one by one."""

import math

import numpy as np
import pytest
import torch

from mambadream_lite.dream import disagreement_halt, dream, observe, watch
from mambadream_lite.market import Market
from mambadream_lite.model import (
    Ensemble,
    EnsembleLaw,
    MambaWorldModel,
    fit_ensemble,
    save_world_model,
)

SMALL = {"d_model": 16, "d_state": 8}


def member(seed: int, market: Market, scale: float = 1.0, **sizes) -> MambaWorldModel:
    """An untrained model with heads that say something, in scaled units of its own."""
    torch.manual_seed(seed)
    model = MambaWorldModel(**{**SMALL, "n_components": 3, **sizes})
    model.fit_scaler(market)
    model.feature_std.mul_(scale)
    torch.nn.init.normal_(model.head.out.weight, std=0.3)
    torch.nn.init.normal_(model.reward_head.weight, std=0.1)
    return model.eval().requires_grad_(False)


@pytest.fixture
def members(market: Market) -> list[MambaWorldModel]:
    shapes = ({}, {"n_components": 2, "scale": 1.7}, {"n_layers": 2, "scale": 0.6})
    return [member(seed, market, **shape) for seed, shape in enumerate(shapes)]


@pytest.fixture
def ensemble(members) -> Ensemble:
    return Ensemble(members).eval()


def test_the_joint_law_is_the_equal_mixture_of_the_members(ensemble, members, market) -> None:
    x = market.features[:, :40]
    law, reward, _ = ensemble(x)
    alone = [m(x) for m in members]
    ahead = market.features[:, 1:41]
    each = torch.stack([a[0].log_prob(ahead) for a in alone])
    torch.testing.assert_close(law.log_prob(ahead), each.logsumexp(0) - math.log(3))
    torch.testing.assert_close(reward, torch.stack([a[1] for a in alone]).mean(0))
    means, sds = (torch.stack([getattr(a[0], n) for a in alone]) for n in ("mean", "stddev"))
    torch.testing.assert_close(law.mean, means.mean(0), rtol=1e-4, atol=1e-5)
    total = (sds.square().mean(0) + means.var(0, correction=0)).sqrt()  # law of total variance
    torch.testing.assert_close(law.stddev, total, rtol=1e-4, atol=1e-5)
    cdfs = torch.stack([a[0].cdf(ahead) for a in alone])
    torch.testing.assert_close(law.cdf(ahead), cdfs.mean(0))


def test_samples_follow_the_joint_law(ensemble, market: Market) -> None:
    law, _, _ = ensemble(market.features[:1, :20])
    one = law[0, -1]
    many = EnsembleLaw([m[[0] * 20_000, -1] for m in law.members])
    draws = many.sample(generator=torch.Generator().manual_seed(0))
    level = one.cdf(draws)
    for feature in range(6):
        counts, _ = np.histogram(level[:, feature], bins=10, range=(0, 1))
        assert np.abs(counts / 2000 - 1).max() < 0.12  # four standard errors


def test_an_ensemble_of_one_is_its_member(members, market: Market) -> None:
    x = market.features[:, :30]
    law, reward, _ = Ensemble(members[:1])(x)
    own, own_reward, _ = members[0](x)
    torch.testing.assert_close(law.log_prob(x), own.log_prob(x))
    torch.testing.assert_close(reward, own_reward)
    assert (law.disagreement == 0).all()


def test_tick_by_tick_is_the_whole(ensemble, market: Market) -> None:
    x = market.features[:, :30]
    whole, reward, end = ensemble(x)
    hidden = None
    for t in range(30):
        law, step_reward, hidden = ensemble(x[:, t], hidden)
    torch.testing.assert_close(law.mean, whole[:, -1].mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(step_reward, reward[:, -1], rtol=1e-3, atol=1e-6)
    assert len(hidden) == len(end) == 4  # one block, one block, two blocks


def test_disagreement_is_the_spread_of_means_and_of_log_sds(ensemble, market: Market) -> None:
    law, _, _ = ensemble(market.features[:, :30])
    by_hand = 0.0
    for i in (0, 1):  # velocity and volatility
        mean = np.stack([m.mean[..., i].numpy() for m in law.members]).astype(float)
        log_sd = np.log(np.stack([m.stddev[..., i].numpy() for m in law.members]).astype(float))
        by_hand += 0.5 * (mean.var(0) / np.exp(2 * log_sd.mean(0)) + log_sd.var(0))
    assert law.disagreement.numpy() == pytest.approx(by_hand**0.5, rel=1e-3)
    assert law[:, 3].disagreement.shape == (len(market.features),)


def test_twins_do_not_disagree_and_strangers_do(members, market: Market) -> None:
    x = market.features[:, :30]
    twins = Ensemble([members[0], members[0], members[0]])(x)[0]
    assert twins.disagreement.max() < 1e-3
    assert Ensemble(members)(x)[0].disagreement.min() > 0.01


def test_dreams_of_an_ensemble_feed_every_member_its_sample(ensemble, members, market) -> None:
    path = dream(
        ensemble,
        market.window(0, 25),
        n_dreams=2,
        horizon=6,
        generator=torch.Generator().manual_seed(1),
    )
    # what was dreamt, watched as if it were real: every member must forecast the same again
    context = market.features[:, :25].repeat_interleave(2, dim=0)
    seen = torch.cat([context, path.features], dim=1)[:, :-1]
    rewards = torch.stack([m(seen)[1] for m in members]).mean(0)[:, 24:]
    torch.testing.assert_close(path.reward, rewards, rtol=1e-3, atol=1e-6)


def test_a_dream_is_halted_where_the_members_disagree(ensemble, market: Market) -> None:
    context = market.window(0, 25)
    law, _, _ = ensemble(observe(ensemble, context).features, observe(ensemble, context).hidden)
    threshold = law.disagreement.sort().values[1:3].mean().item()  # between two of the four
    settings = {"n_dreams": 1, "horizon": 4, "halt": disagreement_halt(threshold)}
    path = dream(ensemble, context, generator=torch.Generator().manual_seed(2), **settings)
    assert torch.equal(path.alive[:, 0], law.disagreement <= threshold)
    assert (path.alive[:, 1:] <= path.alive[:, :-1]).all()  # once over, over
    with pytest.raises(ValueError, match="threshold must be positive"):
        disagreement_halt(0.0)


def test_a_market_can_be_watched_by_an_ensemble(ensemble, market: Market) -> None:
    path = watch(ensemble, market, 20)
    assert path.risk.shape == path.reward.shape == (len(market.features), 280)
    assert (path.risk > 0).all()


def test_members_are_trained_with_seeds_and_data_of_their_own(market: Market) -> None:
    settings = {"n_steps": 3, "batch_size": 4, "window": 32, "progress": False}

    def build() -> MambaWorldModel:
        return MambaWorldModel(**SMALL, n_components=2)

    same = fit_ensemble(build, market, seeds=(0, 0, 1), **settings)
    first, again, other = (m.head.out.bias for m in same.members)
    assert torch.equal(first, again) and not torch.equal(first, other)
    halves = [market.window(0, 150), market.window(150, 300)]
    apart = fit_ensemble(build, halves, seeds=(0, 0), **settings)
    assert not torch.equal(apart.members[0].feature_mean, apart.members[1].feature_mean)
    with pytest.raises(ValueError, match="train must be one market or 3, got 2"):
        fit_ensemble(build, halves, **settings)


def test_members_come_from_their_files(members, market: Market, tmp_path) -> None:
    paths = [save_world_model(m, tmp_path / f"{i}.safetensors") for i, m in enumerate(members)]
    x = market.features[:, :20]
    torch.testing.assert_close(Ensemble.load(paths)(x)[1], Ensemble(members)(x)[1])


def test_members_of_different_worlds_are_refused(market: Market) -> None:
    with pytest.raises(ValueError, match="at least one model"):
        Ensemble([])
    slow = member(1, market)
    slow.bar.mul_(2)
    with pytest.raises(ValueError, match="length of a bar"):
        Ensemble([member(0, market), slow])
    with pytest.raises(ValueError, match="must share d_action"):
        Ensemble([member(0, market), member(1, market, d_action=1)])
