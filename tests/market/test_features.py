"""The six features: no look into the future, the declared laws, and refusals that name names."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from mambadream_lite.market import (
    FEATURES,
    Edge,
    HestonParams,
    Market,
    Scaler,
    bar_extremes,
    make_heston_market,
)
from mambadream_lite.market.features import IMBALANCE, VELOCITY, VOLATILITY
from mambadream_lite.market.heston import log_returns
from mambadream_lite.market.simulation import TRADES_PER_BAR, _six_features

PARAMS = HestonParams()
LOUD = Edge(strength=2.0, persistence=0.0)  # forgets itself at once: one tick off finds nothing
FLOW = FEATURES.index("signed_flow")


@pytest.fixture(scope="module")
def market() -> Market:
    return make_heston_market(PARAMS, 4, 5000, seed=1, edge=LOUD)


def price_shocks(market: Market) -> np.ndarray:
    """Standard normal price shocks (B, T): returns less what the variance path says of them."""
    variance = market.variance.numpy()
    zero = np.zeros((variance.shape[0], variance.shape[1] - 1))
    base, unit = (log_returns(PARAMS, variance, market.bar, z) for z in (zero, zero + 1))
    return (market.log_return.numpy() - base) / (unit - base)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


# --- time: what is known when -------------------------------------------------------------------


@pytest.mark.parametrize("now", [0, 5, 18])
def test_features_do_not_change_with_the_future(now: int) -> None:
    rng = np.random.default_rng(2)
    returns = 1e-3 * rng.standard_normal((3, 20))
    volatility = rng.standard_normal((3, 20))
    imbalance = rng.standard_normal((3, 21))  # one before the first bar, one at each close
    before = _six_features(returns, volatility, imbalance, 1e-4, np.random.default_rng(3))
    returns[:, now + 1 :] *= -7
    volatility[:, now + 1 :] += 5
    imbalance[:, now + 2 :] -= 9
    after = _six_features(returns, volatility, imbalance, 1e-4, np.random.default_rng(3))
    assert np.array_equal(before[:, : now + 1], after[:, : now + 1])
    assert (before[:, now + 1] != after[:, now + 1]).all()


def test_velocity_is_the_return_of_its_own_bar(market: Market) -> None:
    own = (market.price[:, 1:] / market.price[:, :-1]).log() / (0.2 * market.bar**0.5)
    assert torch.allclose(market.features[..., VELOCITY].double(), own, atol=1e-5)


def test_imbalance_foretells_the_next_bar_and_no_other(market: Market) -> None:
    shocks, imbalance = price_shocks(market), market.features[..., IMBALANCE].numpy()
    no_more = 4 / shocks.size**0.5
    expected = (imbalance[:, :-1] * LOUD.shock_mean(imbalance[:, :-1])).mean()
    assert expected > 10 * no_more  # or the test below could not fail
    assert abs(correlation(imbalance[:, :-1], shocks[:, 1:]) - expected) < no_more
    assert abs(correlation(imbalance, shocks)) < no_more
    assert abs(correlation(imbalance[:, :-2], shocks[:, 2:])) < no_more


def test_imbalance_hits_the_sign_of_the_next_shock_as_declared(market: Market) -> None:
    shocks, imbalance = price_shocks(market), market.features[..., IMBALANCE].numpy()
    hit = (imbalance[:, :-1] * shocks[:, 1:] > 0).mean()
    assert abs(hit - LOUD.hit_rate) < 4 * 0.5 / shocks.size**0.5


def test_volatility_is_measured_in_its_own_bar() -> None:
    """At bars so long that the variance forgets itself, only the own bar has the declared law."""
    market = make_heston_market(PARAMS, 20_000, 3, seed=4, bar=0.05)
    variance = market.variance.numpy()
    own = 0.5 * (variance[:, 1] + variance[:, 2])  # bar 1 runs from point 1 to point 2
    readings = np.exp(2 * market.features[:, 1, VOLATILITY].numpy()) / own
    law = stats.chi2(TRADES_PER_BAR, scale=1 / TRADES_PER_BAR)
    assert stats.kstest(readings, law.cdf).pvalue > 1e-3


def test_flow_leans_on_the_bar_and_on_the_imbalance_before_it(market: Market) -> None:
    x = market.features.double().numpy()
    standardised = x[:, 1:, VELOCITY] / (np.exp(x[:, 1:, VOLATILITY]) / 0.2)
    rest = x[:, 1:, FLOW] - 0.6 * standardised - 0.3 * x[:, :-1, IMBALANCE]
    assert stats.kstest(rest.ravel() / 0.7, stats.norm.cdf).pvalue > 1e-3
    assert abs(correlation(rest, x[:, 1:, IMBALANCE])) < 4 / rest.size**0.5


def test_no_feature_follows_from_the_others(market: Market) -> None:
    """A dream would contradict itself: each feature keeps noise of its own."""
    x = market.features[:, 1:].reshape(-1, len(FEATURES)).double()
    x = (x - x.mean(0)) / x.std(0)
    for i in range(len(FEATURES)):
        others = torch.cat([x[:, :i], x[:, i + 1 :], torch.ones(len(x), 1)], dim=1)
        fit = others @ torch.linalg.lstsq(others, x[:, i : i + 1]).solution
        assert (x[:, i : i + 1] - fit).var() > 0.05, FEATURES[i]


def test_the_edge_leaves_the_variance_path_alone() -> None:
    plain, edged = (
        make_heston_market(PARAMS, 2, 50, seed=5, edge=e) for e in (Edge(strength=0.0), LOUD)
    )
    assert torch.equal(plain.variance, edged.variance)
    assert not torch.equal(plain.price, edged.price)


def test_a_seed_fixes_the_market() -> None:
    first, again, other = (make_heston_market(PARAMS, 2, 50, seed=s) for s in (6, 6, 7))
    assert torch.equal(first.features, again.features)
    assert torch.equal(first.high, again.high)
    assert not torch.equal(first.features, other.features)


# --- the extremes of a bar ----------------------------------------------------------------------


def uniforms(n: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(1 - np.random.default_rng(seed).random((2, n)))


def test_extremes_bracket_the_bar() -> None:
    r = torch.linspace(-3, 3, 10_001, dtype=torch.float64)
    up, down = bar_extremes(r, torch.ones_like(r), *uniforms(len(r), 8))
    assert (up >= r.clamp(min=0)).all()
    assert (down <= r.clamp(max=0)).all()


@pytest.mark.parametrize("r", [-1.5, 0.0, 0.8])
def test_extremes_have_the_law_of_a_brownian_bridge(r: float) -> None:
    n, s2 = 20_000, 0.7
    ends = torch.full((n,), r, dtype=torch.float64)
    up, down = bar_extremes(ends, torch.full_like(ends, s2), *uniforms(n, 9))

    def exceeds(m: np.ndarray, end: float) -> np.ndarray:
        return np.where(m <= max(0, end), 1.0, np.exp(-2 * m * (m - end) / s2))

    assert stats.kstest(up.numpy(), lambda m: 1 - exceeds(m, r)).pvalue > 1e-3
    assert stats.kstest(-down.numpy(), lambda m: 1 - exceeds(m, -r)).pvalue > 1e-3


def test_extremes_over_gaussian_bars_obey_the_reflection_principle() -> None:
    n, sd = 20_000, 0.3
    r = torch.from_numpy(sd * np.random.default_rng(10).standard_normal(n))
    up, down = bar_extremes(r, torch.full_like(r, sd**2), *uniforms(n, 11))
    half_normal = stats.halfnorm(scale=sd)
    assert stats.kstest(up.numpy(), half_normal.cdf).pvalue > 1e-3
    assert stats.kstest(-down.numpy(), half_normal.cdf).pvalue > 1e-3


def test_extremes_of_the_market_bracket_its_prices(market: Market) -> None:
    ends = torch.stack([market.price[:, :-1], market.price[:, 1:]])
    slack = 1e-12 * ends.amax()  # exp and log round
    assert (market.high >= ends.amax(0) - slack).all()
    assert (market.low <= ends.amin(0) + slack).all()


# --- the Market ---------------------------------------------------------------------------------


def test_window_keeps_bars_and_prices_together(market: Market) -> None:
    part = market.window(10, 20)
    assert part.features.shape == (4, 10, 6)
    assert torch.equal(part.log_return, market.log_return[:, 10:20])
    assert torch.equal(part.price, market.price[:, 10:21])
    assert torch.equal(part.variance, market.variance[:, 10:21])
    assert torch.equal(part.high, market.high[:, 10:20])
    assert torch.equal(part.low, market.low[:, 10:20])
    assert part.time.tolist() == list(range(10, 20))


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 5), (6, 5), (0, 5001)])
def test_a_window_outside_the_market_is_refused(market: Market, start: int, stop: int) -> None:
    with pytest.raises(ValueError, match=rf"window \[{start}, {stop}\).*5000"):
        market.window(start, stop)


def test_windows_cut_each_path_from_its_own_start(market: Market) -> None:
    cut = market.windows(np.array([2, 0]), np.array([30, 4970]), 30)
    for i, (path, start) in enumerate([(2, 30), (0, 4970)]):
        whole = market.window(start, start + 30)
        for name in ("features", "price", "high", "low", "variance"):
            assert torch.equal(getattr(cut, name)[i], getattr(whole, name)[path]), name


@pytest.mark.parametrize("starts", [[-1], [4971], []])
def test_windows_beyond_a_path_are_refused(market: Market, starts: list[int]) -> None:
    with pytest.raises(ValueError, match="^starts must lie in 0 to 4970"):
        market.windows(np.zeros(len(starts), int), np.array(starts, dtype=int), 30)


@pytest.fixture
def torn(market: Market) -> Market:
    """Twelve bars with a gap before bars 0, 4 and 9."""
    return replace(market.window(0, 12), gap=np.isin(np.arange(12), [0, 4, 9]))


def test_windows_are_free_where_they_hold_no_gap(torn: Market, market: Market) -> None:
    assert torn.free_starts(3).tolist() == [0, 1, 4, 5, 6, 9]
    assert torn.free_starts(5).tolist() == [4]
    assert torn.free_starts(6).tolist() == [] == torn.free_starts(13).tolist()
    assert market.window(0, 12).free_starts(10).tolist() == [0, 1, 2]


def test_pieces_are_cut_at_the_gaps_and_have_none(torn: Market, market: Market) -> None:
    pieces = torn.pieces()
    assert [p.time.tolist() for p in pieces] == [[0, 1, 2, 3], [4, 5, 6, 7, 8], [9, 10, 11]]
    assert all(p.gap is None for p in pieces)
    assert torch.equal(pieces[1].features, market.features[:, 4:9])
    assert torch.equal(pieces[1].price, market.price[:, 4:10])
    assert market.pieces() == [market]


def test_no_window_crosses_a_gap(torn: Market) -> None:
    with pytest.raises(ValueError, match="window of 3 bars from bar 2 crosses a gap"):
        torn.windows(np.array([0, 0]), np.array([1, 2]), 3)
    assert torn.windows(np.array([0]), np.array([4]), 5).gap is None
    assert torn.window(2, 6).gap.tolist() == [False, False, True, False]


def test_a_gap_is_dated(torn: Market, market: Market) -> None:
    with pytest.raises(ValueError, match="context has a gap before 4: .*context.pieces"):
        torn.without_gaps("context")
    first = torn.window(0, 4)  # a gap before its first bar is none inside it
    assert first.without_gaps("context") is first
    assert market.without_gaps("market") is market


@pytest.mark.parametrize("gap", [np.zeros(11, dtype=bool), np.zeros(12)])
def test_a_mark_of_another_shape_is_refused(torn: Market, gap: np.ndarray) -> None:
    with pytest.raises(ValueError, match="gap must be bool of shape"):
        replace(torn, gap=gap)


def test_between_needs_dates(market: Market) -> None:
    with pytest.raises(TypeError, match="dates"):
        market.between("2000-01-01", "2001-01-01")


def test_nan_in_the_data_is_located(market: Market) -> None:
    features = market.features.clone()
    features[1, 7, 3] = float("nan")
    with pytest.raises(ValueError, match=r"features must be finite: 1 .*\(1, 7, 3\) \(log_spread"):
        replace(market, features=features)


def test_a_wrong_number_of_features_is_named(market: Market) -> None:
    with pytest.raises(ValueError, match=r"features must end in 6.*\(4, 5000, 5\)"):
        replace(market, features=market.features[..., :5])


@pytest.mark.parametrize("name", ["price", "high", "low"])
def test_a_wrong_shape_is_named(market: Market, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must have shape"):
        replace(market, **{name: getattr(market, name)[:, :-1]})


def test_low_above_high_is_refused(market: Market) -> None:
    with pytest.raises(ValueError, match="low"):
        replace(market, low=market.high, high=market.low)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_price_is_refused(market: Market, value: float) -> None:
    price = market.price.clone()
    price[0, 3] = value
    with pytest.raises(ValueError, match="price must be"):
        replace(market, price=price)


# --- the Scaler ---------------------------------------------------------------------------------


def test_scaler_standardises_and_goes_back(market: Market) -> None:
    scaler = Scaler().fit(market)
    z = scaler.transform(market.features).reshape(-1, 6).double()
    assert torch.allclose(z.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-4)
    assert torch.allclose(z.std(0), torch.ones(6, dtype=torch.float64), atol=1e-4)
    there_and_back = scaler.inverse(scaler.transform(market.features))
    assert torch.allclose(there_and_back, market.features, atol=1e-5)


def test_scaler_takes_a_tensor_as_it_takes_a_market(market: Market) -> None:
    assert torch.equal(Scaler().fit(market).std, Scaler().fit(market.features).std)


@pytest.mark.parametrize("method", ["transform", "inverse"])
def test_an_unfitted_scaler_says_so(method: str) -> None:
    with pytest.raises(ValueError, match="fit"):
        getattr(Scaler(), method)(torch.zeros(1, 6))


def test_scaler_names_a_constant_feature(market: Market) -> None:
    features = market.features.clone()
    features[..., 4] = 1.0
    with pytest.raises(ValueError, match="log_volume"):
        Scaler().fit(features)
