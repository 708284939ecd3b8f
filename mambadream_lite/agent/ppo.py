"""PPO over batches of dreams (chapter 07).

Schulman et al. (2017) on one page, with generalised advantages (Schulman et al., 2016). Three
ends of an episode are kept apart. At the horizon the future is cut off but goes on, so its value
is bootstrapped. After ruin there is none. Where a dream is halted the desk closes the position
at its cost and waits: an early end never pays.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from mambadream_lite.agent.network import ActorCritic, ContinuousActorCritic
from mambadream_lite.agent.policies import Observation
from mambadream_lite.dream.desk import Desk, n_inputs, trader_inputs
from mambadream_lite.dream.quote import Quoted
from mambadream_lite.dream.rollout import Dream
from mambadream_lite.market.account import Account, AccountState
from mambadream_lite.market.contract import VolatilityContract
from mambadream_lite.model.checkpoint import read_tensors, write_whole
from mambadream_lite.model.ensemble import Ensemble
from mambadream_lite.model.world_model import WorldModel

FORMAT = "mambadream-ppo-1"
LEVELS = (-100.0, -30.0, -10.0, -3.0, -1.0, 0.0, 1.0, 3.0, 10.0, 30.0, 100.0)


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO; the defaults are the ones that the book uses.

    Attributes:
        levels: leverages of the asset to choose from.
        contract_levels: of the volatility contract; empty: it is not traded.
        continuous: hold any leverage of the asset between the lowest and the highest level.
        gamma, lam: discount, and lambda of the generalised advantage.
        lr, epochs, minibatches: of the optimiser, on each batch of episodes.
        clip: of the probability ratio.
        entropy: weight of the entropy bonus.
        width: of the two hidden layers.
        beliefs: see the model's expected return and risk beside the raw features.
        expected_reward: score a tick of the asset by the model's expected growth (mean and
            variance of its own forecast) instead of by the growth of the one path that was drawn.
        drawdown_penalty: price of a new drawdown, per unit of equity lost from the peak.
        worst_reward: losses of one tick are clipped here (log growth); gains never are.
        inertia: logit that the level now held starts with over the others. Turning over costs:
            an agent that begins by trading at random learns only to stop.
    """

    levels: tuple[float, ...] = LEVELS
    contract_levels: tuple[float, ...] = ()
    continuous: bool = False
    gamma: float = 0.9
    lam: float = 0.8
    lr: float = 3e-3
    epochs: int = 4
    minibatches: int = 4
    clip: float = 0.2
    entropy: float = 0.004
    width: int = 64
    beliefs: bool = True
    expected_reward: bool = True
    drawdown_penalty: float = 0.02
    worst_reward: float = -0.5
    inertia: float = 4.0


@dataclass(frozen=True)
class Rollout:
    """N episodes of H ticks under one policy; (N, H) each, inputs (N, H, I), choice (N, H, 1 to 3).

    ``ruined`` marks the tick of ruin, ``halted`` the ticks of a dream that is over, ``ended`` all
    that is not to be learned from.
    """

    inputs: Tensor
    held: Tensor
    choice: Tensor
    log_prob: Tensor
    reward: Tensor
    ruined: Tensor
    halted: Tensor
    ended: Tensor
    last_inputs: Tensor


class PPO:
    """An agent that picks a leverage before each tick, of one instrument or of two.

    Args:
        world_model: gives the scaler of the features, and the unit of velocity.
        account: costs, margin, liquidation.
        config: settings.
        seed: of the initial weights, of the actions drawn and of the minibatches.
        contract: the volatility contract, if ``config.contract_levels`` has levels for it.

    Raises:
        ValueError: a level above the account's ``max_leverage``, or levels of a contract without
            the contract, or the other way round.
    """

    def __init__(
        self,
        world_model: WorldModel | Ensemble,
        account: Account,
        config: PPOConfig | None = None,
        *,
        seed: int,
        contract: VolatilityContract | None = None,
    ) -> None:
        self.config = PPOConfig() if config is None else config
        limit = account.config.max_leverage
        for name in ("levels", "contract_levels"):
            levels = getattr(self.config, name)
            if any(abs(level) > limit for level in levels):
                raise ValueError(f"{name} {levels} go beyond max_leverage {limit}")
        if (contract is None) != (not self.config.contract_levels):
            raise ValueError("contract and config.contract_levels must be given together")
        self.model, self.account, self.contract = world_model, account, contract
        self.generator = torch.Generator().manual_seed(seed)
        shown = {"beliefs": self.config.beliefs, "contract": contract is not None}
        inputs = n_inputs(world_model.config["d_input"], **shown)
        sizes = (self.config.levels, self.config.contract_levels, self.config.width)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            kind = ContinuousActorCritic if self.config.continuous else ActorCritic
            self.network = kind(inputs, *sizes, self.config.inertia)
        self.optimizer = torch.optim.Adam(self.network.parameters(), self.config.lr, eps=1e-5)

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        state: AccountState,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Leverage (N,), or (N, 2) with contracts: the likeliest, or drawn if a generator is given.

        Raises:
            ValueError: an agent that trades the contract, on a path without quotes for it.
        """
        if self.contract is not None and observation.strike is None:
            raise ValueError("observation has no strike: the agent needs a path from quote()")
        inputs = trader_inputs(
            observation.features,
            observation.reward,
            observation.risk,
            state,
            self.model,
            strike=None if self.contract is None else observation.strike,
            beliefs=self.config.beliefs,
        )
        held = self.network.held(state)
        choice = self.network.choose(inputs, held, generator)
        return self.network.target(choice, held)

    def learn(self, path: Dream) -> float:
        """Trade once along every path, then improve; returns the mean reward (bp a tick).

        Where every path was halted before its first tick there is nothing to learn: 0.

        Raises:
            ValueError: an agent that trades the contract on a path without quotes, or the
                other way round.
        """
        if isinstance(path, Quoted) != (self.contract is not None):
            raise ValueError("path must be quoted if and only if the agent trades the contract")
        rollout = self._collect(path)
        advantage, target = self._advantages(rollout)
        learned = ~rollout.ended
        if not learned.any():
            return 0.0
        names = ("inputs", "held", "choice", "log_prob")
        batch = [getattr(rollout, name)[learned] for name in names]
        batch += [advantage[learned], target[learned]]
        for _ in range(self.config.epochs):
            order = torch.randperm(len(batch[0]), generator=self.generator)
            for rows in order.chunk(self.config.minibatches):
                self._improve(*(z[rows] for z in batch))
        return rollout.reward[learned].mean().item()

    @torch.no_grad()
    def _collect(self, path: Dream) -> Rollout:
        config, network, n = self.config, self.network, len(path)
        desk = Desk(
            self.model,
            self.account,
            n,
            drawdown_penalty=config.drawdown_penalty,
            worst_reward=config.worst_reward,
            expected_reward=config.expected_reward,
            beliefs=config.beliefs,
        )
        desk.paths = path
        # every dream begins with a position drawn at random, so that holding, adding and
        # getting out are all tried in every state of the market
        start = network.start(n, self.generator)
        everyone, row = torch.ones(n, dtype=torch.bool), torch.arange(n)
        desk.seat(everyone, row, 0 * row, path.horizon, start)
        columns: dict[str, list[Tensor]] = {
            name: [] for name in Rollout.__dataclass_fields__ if name != "last_inputs"
        }
        for h in range(path.horizon):
            inputs, held = desk.see(), network.held(desk.state)
            choice = network.choose(inputs, held, self.generator)
            before, halted = desk.state.ruined, ~path.alive[:, h]
            target = network.target(choice, held)
            target = torch.where(halted if target.ndim == 1 else halted[:, None], 0.0, target)
            reward, ruined, _ = desk.trade(target)
            entry = {
                "inputs": inputs,
                "held": held,
                "choice": choice,
                "log_prob": network.judge(inputs, held, choice)[0],
                "reward": reward.float(),
                "ruined": ruined & ~before,
                "halted": halted,
                "ended": before | halted,
            }
            for name, column in columns.items():
                column.append(entry[name])
        stacked = {name: torch.stack(column, dim=1) for name, column in columns.items()}
        return Rollout(**stacked, last_inputs=desk.see())

    @torch.no_grad()
    def _advantages(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Generalised advantages and value targets (N, H).

        No future after ruin. After a halt the future is what closing the position costs.
        """
        config = self.config
        values = self.network.value(rollout.inputs).squeeze(-1)
        values = torch.where(rollout.halted, rollout.reward, values)
        following = self.network.value(rollout.last_inputs).squeeze(-1)
        advantage, running = torch.zeros_like(values), torch.zeros_like(following)
        for h in reversed(range(values.shape[1])):
            goes_on = (~rollout.ruined[:, h] & ~rollout.halted[:, h]).float()
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
        log_prob, entropy = self.network.judge(inputs, held, choice)
        ratio = (log_prob - old).exp()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        clipped = ratio.clamp(1 - self.config.clip, 1 + self.config.clip)
        gain = torch.minimum(ratio * advantage, clipped * advantage).mean()
        scale = target.std() + 1e-8
        error = ((self.network.value(inputs).squeeze(-1) - target) / scale).square().mean()
        loss = -gain + 0.5 * error - self.config.entropy * entropy.mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 0.5)
        self.optimizer.step()

    def save(self, path: str | Path) -> Path:
        """Write weights, optimiser and generator, whole or not at all: learning goes on from it."""
        adam = self.optimizer.state_dict()
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        for i, moments in adam["state"].items():
            tensors |= {f"adam.{i}.{k}": v for k, v in moments.items()}
        tensors["generator"] = self.generator.get_state()
        header = {
            "format": FORMAT,
            "config": json.dumps(asdict(self.config)),
            "contract": json.dumps(self.contract and asdict(self.contract)),
            "groups": json.dumps(adam["param_groups"]),
        }
        whole = {k: v.detach().clone().contiguous() for k, v in tensors.items()}
        return write_whole(Path(path), save(whole, metadata=header))

    @classmethod
    def load(cls, path: str | Path, world_model: WorldModel | Ensemble, account: Account) -> PPO:
        """Read an agent that ``save`` wrote; it goes on learning as if it had never stopped.

        Raises:
            ValueError: a file that is cut or no agent, or a model with other features.
        """
        header, tensors = read_tensors(Path(path), "cpu")
        if header.get("format") != FORMAT:
            raise ValueError(f"path: {path} is not a {FORMAT} file: {header.get('format')!r}")
        settings = {
            k: tuple(v) if isinstance(v, list) else v
            for k, v in json.loads(header["config"]).items()
        }
        contract = json.loads(header["contract"])
        contract = None if contract is None else VolatilityContract(**contract)
        agent = cls(world_model, account, PPOConfig(**settings), seed=0, contract=contract)
        weights = {k[8:]: v for k, v in tensors.items() if k.startswith("network.")}
        expected, found = (
            z["policy.0.weight"].shape for z in (agent.network.state_dict(), weights)
        )
        if expected != found:
            raise ValueError(f"path: {path} sees {found[1]} inputs, this model gives {expected[1]}")
        agent.network.load_state_dict(weights)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("adam."):
                _, i, key = name.split(".")
                state.setdefault(int(i), {})[key] = value
        groups = json.loads(header["groups"])
        agent.optimizer.load_state_dict({"state": state, "param_groups": groups})
        agent.generator.set_state(tensors["generator"])
        return agent
