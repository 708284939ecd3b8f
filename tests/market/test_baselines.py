"""The old forecasters, held to ``arch`` itself and to the declared laws of the order book."""

from dataclasses import replace

import pytest
import torch
from arch import arch_model

from mambadream_lite.market import (
    FEATURES,
    Garch,
    HarVar,
    HestonParams,
    Market,
    Persistence,
    bayes_filter,
    make_heston_market,
    stationary_variance,
)

PARAMS = HestonParams()
IMBALANCE, SPREAD = FEATURES.index("imbalance"), FEATURES.index("log_spread")


def market_of(n_paths: int, n_steps: int, seed: int) -> Market:
    v0 = stationary_variance(PARAMS, n_paths, seed)
    return make_heston_market(PARAMS, n_paths, n_steps, seed=seed, v0=v0)


@pytest.fixture(scope="module")
def train() -> Market:
    return market_of(1, 20_000, seed=31)


@pytest.fixture(scope="module")
def test() -> Market:
    return market_of(20, 1000, seed=32)


@pytest.mark.parametrize("asymmetric", [False, True], ids=["garch", "gjr"])
def test_garch_forecasts_as_arch_does(train: Market, asymmetric: bool) -> None:
    garch = Garch.fit(train, asymmetric=asymmetric)
    law = garch.forecast(train)
    velocity = train.features[0, :, 0].double().numpy()
    theirs = arch_model(velocity, p=1, o=int(asymmetric), q=1, dist="t", rescale=False)
    weights = [garch.mean, garch.omega, garch.alpha]
    weights += [garch.gamma] * asymmetric + [garch.beta, garch.degrees]
    fixed = theirs.fix(weights)
    settled = 500  # the recursions start from different guesses of the first variance
    sd = (law.variance[0] ** 0.5).numpy()
    assert sd[settled:] == pytest.approx(fixed.conditional_volatility[settled + 1 :], rel=1e-6)
    ours = law.log_prob(train.features[:, 1:, 0].double()).sum().item()
    assert ours == pytest.approx(fixed.loglikelihood, abs=20)  # of 20,000 ticks
    assert (garch.gamma > 0.01) is asymmetric  # fear after falls


def test_har_finds_the_laws_of_the_book(train: Market, test: Market) -> None:
    har = HarVar.fit(train)
    law = har.forecast(test)
    own = har.weights[1 + IMBALANCE, IMBALANCE].item()
    assert own == pytest.approx(0.9, abs=0.02)
    assert law.stddev[..., IMBALANCE].mean().item() == pytest.approx(0.19**0.5, rel=0.03)
    # the noise of the spread, and what the coming bar's volatility adds to it
    assert 0.1 < law.stddev[..., SPREAD].mean().item() < 0.11
    assert har.weights[1 + SPREAD, SPREAD].item() == pytest.approx(0.8, abs=0.02)


def test_har_knows_how_wide_the_coming_return_is(train: Market, test: Market) -> None:
    law = HarVar.fit(train).forecast(test)
    z = ((test.features[:, 1:, 0].double() - law.mean[..., 0]) / law.stddev[..., 0]).square()
    wide = law.stddev[..., 0] > law.stddev[..., 0].median()
    assert z[wide].mean().item() == pytest.approx(1, abs=0.1)
    assert z[~wide].mean().item() == pytest.approx(1, abs=0.1)


def test_persistence_expects_what_was_and_errs_as_changes_do(train: Market, test: Market) -> None:
    law = Persistence.fit(train).forecast(test)
    assert torch.equal(law.mean, test.features[:, :-1].double())
    # an AR(1) of unit variance changes by sqrt(2 (1 - persistence))
    assert law.stddev[0, 0, IMBALANCE].item() == pytest.approx(0.2**0.5, rel=0.03)


def test_every_baseline_falls_short_of_the_limit_in_the_known_order(train, test) -> None:
    limit = bayes_filter(test, PARAMS)
    ahead = test.features[:, 1:].double()

    def gap(score: torch.Tensor, best: torch.Tensor) -> float:
        return (best[:, 1:] - score)[:, 100:].mean().item()

    garch, gjr = (
        gap(
            Garch.fit(train, asymmetric=a).forecast(test).log_prob(ahead[..., 0]),
            limit.velocity_score,
        )
        for a in (False, True)
    )
    har, same = (
        gap(kind.fit(train).forecast(test).log_prob(ahead), limit.log_score)
        for kind in (HarVar, Persistence)
    )
    assert 0 < gjr < garch < 0.1
    assert 0.03 < har < 0.12
    assert same > 1


@pytest.mark.parametrize("kind", ["persistence", "har", "garch"])
def test_a_forecast_does_not_see_ahead(train: Market, test: Market, kind: str) -> None:
    fit = {
        "persistence": Persistence.fit,
        "har": HarVar.fit,
        "garch": lambda m: Garch.fit(m, asymmetric=True),
    }[kind]
    model, now = fit(train), 40
    before = model.forecast(test)
    changed = test.features.clone()
    changed[:, now + 1 :] *= -1.1
    after = model.forecast(replace(test, features=changed))
    spread = "scale" if kind == "garch" else "scale_tril"
    for name in ("mean", spread):
        old, new = getattr(before, name), getattr(after, name)
        assert torch.equal(old[:, : now + 1], new[:, : now + 1])


@pytest.mark.parametrize("fit", [Persistence.fit, HarVar.fit], ids=["persistence", "har"])
def test_too_little_data_is_refused(fit) -> None:
    with pytest.raises(ValueError, match="at least 1000 ticks"):
        fit(market_of(1, 500, seed=33))
