"""PPO over batches of dreams (chapter 07).

Schulman et al. (2017) on one page, with generalised advantages (Schulman et al., 2016). Two
ends of an episode are kept apart: at the horizon the future is cut off but goes on, so its
value is bootstrapped; after ruin there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from mambadream_lite.agent.policies import Observation, bar_of, observation_at
from mambadream_lite.dream.desk import BELIEFS, REWARD_UNIT, trader_inputs
from mambadream_lite.dream.rollout import Dream, dream, observe
from mambadream_lite.market.account import Account, AccountState
from mambadream_lite.market.features import Market, Scaler
from mambadream_lite.model.world_model import WorldModel

LEVELS = (-100.0, -30.0, -10.0, -3.0, -1.0, 0.0, 1.0, 3.0, 10.0, 30.0, 100.0)


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO; the defaults are the ones that the book uses.

    Attributes:
        levels: leverages to choose from.
        gamma, lam: discount, and lambda of the generalised advantage.
        lr, epochs, minibatches: of the optimiser, on each batch of episodes.
        clip: of the probability ratio.
        entropy: weight of the entropy bonus.
        width: of the two hidden layers.
        expected_reward: score a tick by the model's expected growth (mean and variance of
            its own forecast) instead of by the growth of the one path that was drawn.
        drawdown_penalty: price of a new drawdown, per unit of log equity lost from the peak.
        worst_reward: losses of one tick are clipped here (log growth); gains never are.
        inertia: logit that the level now held starts with over the others. Turning over costs:
            an agent that begins by trading at random learns only to stop.
    """

    levels: tuple[float, ...] = LEVELS
    gamma: float = 0.9
    lam: float = 0.8
    lr: float = 3e-3
    epochs: int = 4
    minibatches: int = 4
    clip: float = 0.2
    entropy: float = 0.004
    width: int = 64
    expected_reward: bool = True
    drawdown_penalty: float = 0.1
    worst_reward: float = -0.5
    inertia: float = 4.0


@dataclass(frozen=True)
class Rollout:
    """N episodes of H ticks under one policy; (N, H) each, inputs (N, H, I)."""

    inputs: Tensor
    held: Tensor
    choice: Tensor
    log_prob: Tensor
    reward: Tensor
    ruined: Tensor
    ended: Tensor  # the account was already ruined, or the dream halted: not to be learned from
    last_inputs: Tensor


class PPO:
    """An agent that picks a leverage before each tick.

    Args:
        world_model: gives the scaler of the features, and the unit of velocity.
        account: costs, margin, liquidation.
        config: settings.
        seed: of the initial weights, of the actions drawn and of the minibatches.

    Raises:
        ValueError: a level above the account's ``max_leverage``.
    """

    def __init__(
        self,
        world_model: WorldModel,
        account: Account,
        config: PPOConfig | None = None,
        *,
        seed: int,
    ) -> None:
        self.config = PPOConfig() if config is None else config
        limit = account.config.max_leverage
        if max(abs(level) for level in self.config.levels) > limit:
            raise ValueError(f"levels {self.config.levels} go beyond max_leverage {limit}")
        self.account = account
        self.scaler = Scaler()
        self.scaler.mean, self.scaler.std = world_model.feature_mean, world_model.feature_std
        self.unit = world_model.velocity_unit
        self.levels = torch.tensor(self.config.levels, dtype=torch.float64)
        self.generator = torch.Generator().manual_seed(seed)
        n_inputs = len(self.scaler.mean) + BELIEFS
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.policy = _network(n_inputs, self.config.width, len(self.levels), gain=0.01)
            self.value = _network(n_inputs, self.config.width, 1, gain=1.0)
        self.inertia = nn.Parameter(torch.tensor(self.config.inertia))
        self.parameters = [self.inertia, *self.policy.parameters(), *self.value.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=self.config.lr, eps=1e-5)

    def inputs(self, observation: Observation, state: AccountState) -> Tensor:
        """What the networks see (N, I): scaled features, the model's belief, the position."""
        return trader_inputs(
            observation.features,
            observation.reward,
            observation.risk,
            state,
            mean=self.scaler.mean,
            std=self.scaler.std,
            unit=self.unit,
        )

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        state: AccountState,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Leverage (N,): the likeliest level, or one drawn if a generator is given."""
        logits = self._logits(self.inputs(observation, state), self._held(state))
        choice = logits.argmax(-1) if generator is None else _draw(logits, generator)
        return self.levels[choice]

    def _held(self, state: AccountState) -> Tensor:
        """Index (N,) of the level nearest to the leverage now held."""
        return (state.leverage.unsqueeze(-1) - self.levels).abs().argmin(-1)

    def _logits(self, inputs: Tensor, held: Tensor) -> Tensor:
        """Preference for each level (N, levels)."""
        stay = nn.functional.one_hot(held, len(self.levels))
        return self.policy(inputs) + self.inertia * stay

    def learn(self, path: Dream) -> float:
        """Trade once along every path, then improve; returns the mean reward (bp a tick)."""
        rollout = self._collect(path)
        advantage, target = self._advantages(rollout)
        learned = ~rollout.ended
        batch = [
            z[learned]
            for z in (
                rollout.inputs,
                rollout.held,
                rollout.choice,
                rollout.log_prob,
                advantage,
                target,
            )
        ]
        for _ in range(self.config.epochs):
            order = torch.randperm(len(batch[0]), generator=self.generator)
            for rows in order.chunk(self.config.minibatches):
                self._improve(*(z[rows] for z in batch))
        return rollout.reward[learned].mean().item()

    @torch.no_grad()
    def _collect(self, path: Dream) -> Rollout:
        config = self.config
        # every dream begins with a position drawn at random, so that holding, adding and
        # getting out are all tried in every state of the market
        start = torch.randint(len(self.levels), (len(path),), generator=self.generator)
        state = self.account.open(len(path), self.levels[start])
        columns: dict[str, list[Tensor]] = {
            f: [] for f in Rollout.__dataclass_fields__ if f != "last_inputs"
        }
        for h in range(path.horizon):
            inputs = self.inputs(observation_at(path, h), state)
            held = self._held(state)
            logits = self._logits(inputs, held)
            choice = _draw(logits, self.generator)
            target = self.levels[choice]
            after = self.account.step(state, target, *bar_of(path, h))
            grown = self._growth(path, h, state, target, after)
            fall = after.drawdown.clamp(max=0.999) - state.drawdown.clamp(max=0.999)
            reward = grown.clamp(min=config.worst_reward)
            reward = reward - config.drawdown_penalty * fall.clamp(min=0.0)
            newly = after.ruined & ~state.ruined
            reward = torch.where(newly, config.worst_reward, reward)
            entry = {
                "inputs": inputs,
                "held": held,
                "choice": choice,
                "log_prob": Categorical(logits=logits).log_prob(choice),
                "reward": (reward / REWARD_UNIT).float(),
                "ruined": newly,
                "ended": state.ruined | ~path.alive[:, h],
            }
            for name, column in columns.items():
                column.append(entry[name])
            state = after
        # the observation after the last tick needs a forecast that was never made; the last
        # forecast made stands in for it in the value of the cut-off future
        last = observation_at(path, path.horizon - 1)
        last = Observation(path.features[:, -1], last.reward, last.risk, path.log_price)
        stacked = {name: torch.stack(column, dim=1) for name, column in columns.items()}
        return Rollout(**stacked, last_inputs=self.inputs(last, state))

    def _growth(
        self, path: Dream, h: int, state: AccountState, target: Tensor, after: AccountState
    ) -> Tensor:
        """Log growth (N,) of tick h: expected under the model's forecast, or as it came."""
        if not self.config.expected_reward:
            return (after.equity / state.equity.clamp(min=1e-12)).clamp(min=1e-12).log()
        mean, risk = path.reward[:, h].double(), path.risk[:, h].double()
        cost = self.account.config.turnover_cost * (target - state.leverage).abs()
        return target * mean - 0.5 * (target * risk).square() - cost

    @torch.no_grad()
    def _advantages(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Generalised advantages and value targets (N, H); no future after ruin."""
        config = self.config
        values = self.value(rollout.inputs).squeeze(-1)
        following = self.value(rollout.last_inputs).squeeze(-1)
        advantage, running = torch.zeros_like(values), torch.zeros_like(following)
        for h in reversed(range(values.shape[1])):
            goes_on = (~rollout.ruined[:, h]).float()
            error = rollout.reward[:, h] + config.gamma * goes_on * following - values[:, h]
            running = error + config.gamma * config.lam * goes_on * running
            advantage[:, h] = running
            following = values[:, h]
        return advantage, advantage + values

    def _improve(
        self,
        inputs: Tensor,
        held: Tensor,
        choice: Tensor,
        old: Tensor,
        advantage: Tensor,
        target: Tensor,
    ) -> None:
        law = Categorical(logits=self._logits(inputs, held))
        ratio = (law.log_prob(choice) - old).exp()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        clipped = ratio.clamp(1 - self.config.clip, 1 + self.config.clip)
        gain = torch.minimum(ratio * advantage, clipped * advantage).mean()
        scale = target.std() + 1e-8
        error = ((self.value(inputs).squeeze(-1) - target) / scale).square().mean()
        loss = -gain + 0.5 * error - self.config.entropy * law.entropy().mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 0.5)
        self.optimizer.step()


def dream_and_train(
    world_model: WorldModel,
    agent: PPO,
    start_state: Market | Tensor,
    horizon: int = 50,
    *,
    n_dreams: int = 4,
    n_rounds: int = 40,
    n_starts: int = 64,
    n_passes: int = 4,
    generator: torch.Generator | None = None,
) -> list[float]:
    """Train an agent inside a frozen model's dreams (chapter 07).

    Each round picks ``n_starts`` of the contexts and dreams ``n_dreams`` futures of each. The
    agent trades in them and learns, ``n_passes`` times: its orders move nothing, so a dream
    serves more than once. Not one tick of the market is touched.

    Args:
        world_model: frozen; no gradient reaches it.
        agent: learns in place.
        start_state: contexts to dream from, a ``Market`` or raw features (B, T, F).
        horizon: ticks of a dream.
        n_dreams, n_starts: futures a context, contexts a round.
        n_rounds: rounds of dreaming and learning.
        n_passes: times that the agent trades in the same dreams.
        generator: of the starts and of the dreams; the agent's own, which its seed began, if None.

    Returns:
        Mean reward of each round, basis points a tick, penalties included.
    """
    belief = observe(world_model, start_state)
    generator = agent.generator if generator is None else generator
    curve = []
    for _ in range(n_rounds):
        rows = torch.randint(len(belief.features), (n_starts,), generator=generator)
        path = dream(
            world_model,
            belief.take(rows),
            n_dreams=n_dreams,
            horizon=horizon,
            generator=generator,
        )
        curve.append(sum(agent.learn(path) for _ in range(n_passes)) / n_passes)
    return curve


def _draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)


def _network(n_inputs: int, width: int, n_outputs: int, gain: float) -> nn.Sequential:
    """Two tanh layers, orthogonal weights; a small last gain starts the policy near uniform."""
    layers = [
        nn.Linear(n_inputs, width),
        nn.Tanh(),
        nn.Linear(width, width),
        nn.Tanh(),
        nn.Linear(width, n_outputs),
    ]
    for layer, scale in ((layers[0], 2**0.5), (layers[2], 2**0.5), (layers[4], gain)):
        nn.init.orthogonal_(layer.weight, scale)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)
