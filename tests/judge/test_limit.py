"""The distance to the limit, of forecasters whose distance is known."""

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from mambadream_lite.judge.limit import limit_gap
from mambadream_lite.market import Filtered, HarVar, Market, bayes_filter
from mambadream_lite.model.recipes import PARAMS, heston_market


class Oracle:
    """Says of each tick what the optimal forecaster said, less ``loss`` nats."""

    def __init__(self, best: Filtered, loss: float) -> None:
        self.best, self.loss, self.done = best, loss, 0

    def __call__(self, x):
        rows = slice(self.done, self.done + len(x))
        self.done += len(x)
        oracle = self

        class Law:
            stddev = oracle.best.return_sd[rows, :-1, None].expand(-1, -1, 6)

            def log_prob(self, ahead):
                return oracle.best.log_score[rows, 1:] - oracle.loss

            def margin_log_prob(self, ahead):
                score = oracle.best.velocity_score[rows, 1:, None] - 2 * oracle.loss
                return score.expand(-1, -1, 6)

        reward = oracle.best.return_mean + 0.5 * oracle.best.return_sd.square()
        return Law(), reward[rows, :-1], None


class Old:
    """HAR as a world model."""

    def __init__(self, har: HarVar, market: Market) -> None:
        self.law, self.done = har.forecast(market), 0

    def __call__(self, x):
        rows = slice(self.done, self.done + len(x))
        self.done += len(x)
        mean, root = self.law.mean[rows], self.law.scale_tril[rows]

        class Law(MultivariateNormal):
            def margin_log_prob(self, ahead):
                return Normal(self.mean, self.stddev).log_prob(ahead.double())

            def log_prob(self, ahead):
                return super().log_prob(ahead.double())

        return Law(mean, scale_tril=root), mean[..., 0], None


@pytest.fixture(scope="module")
def market() -> Market:
    return heston_market(50, 1101, seed=71)


@pytest.fixture(scope="module")
def best(market: Market) -> Filtered:
    return bayes_filter(market, PARAMS)


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_the_gap_of_an_oracle_is_what_was_taken_from_it(market, best, loss: float) -> None:
    gap = limit_gap(Oracle(best, loss), market, best)
    assert gap.joint == pytest.approx(loss, abs=1e-9)
    assert gap.velocity == pytest.approx(2 * loss, abs=1e-9)
    assert gap.joint_error < 1e-9
    assert gap.mean_correlation == pytest.approx(1) == gap.sd_correlation


def test_the_gap_of_har_is_that_of_its_own_scores(market: Market, best: Filtered) -> None:
    har = HarVar.fit(heston_market(1, 20_000, seed=72))
    gap = limit_gap(Old(har, market), market, best)
    scores = har.forecast(market).log_prob(market.features[:, 1:].double())
    known = (best.log_score[:, 1:] - scores)[:, 100:].mean().item()
    assert gap.joint == pytest.approx(known, rel=1e-6)
    assert 0 < gap.velocity < gap.joint and gap.joint > 4 * gap.joint_error
    assert 0.9 < gap.sd_correlation < 1 and gap.mean_correlation < 1
    assert torch.isfinite(torch.tensor(gap.velocity_error))
