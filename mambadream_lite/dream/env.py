"""Dream and market as gymnasium environments: the same spaces, the same account (chapter 07).

``DreamEnv`` trades in the model's dreams, ``MarketEnv`` on ticks that happened. An agent from
any library that speaks gymnasium moves from one to the other without a change. Ruin terminates
an episode; its horizon, or a dream that is no longer to be believed, truncates it: the future
goes on, and its value must be bootstrapped.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from mambadream_lite.dream.desk import SEEN_LIMIT, Desk, n_inputs
from mambadream_lite.dream.explosion import end_explosions
from mambadream_lite.dream.halt import Halt
from mambadream_lite.dream.rollout import dream, observe, watch
from mambadream_lite.market.account import Account, AccountConfig
from mambadream_lite.market.features import Market
from mambadream_lite.model.ensemble import Ensemble
from mambadream_lite.model.world_model import WorldModel

LEVELS = (-3.0, -1.0, 0.0, 1.0, 3.0)
POOL = 256  # dreams made at a time


class Trading:
    """Spaces and rewards that all three environments share; not an environment itself.

    Args:
        model: its forecasts are part of what the agent sees.
        account: terms of trade; the defaults if None.
        levels: leverages to choose from, a ``Discrete`` action; None is any leverage, a ``Box``
            of shares of ``max_leverage`` in [-1, 1].
        horizon: ticks of an episode.
        drawdown_penalty, worst_reward, expected_reward: as for ``Desk``.

    Raises:
        ValueError: a horizon below 1, no levels, or one above the account's ``max_leverage``.
    """

    def __init__(
        self,
        model: WorldModel | Ensemble,
        n: int,
        *,
        account: AccountConfig | None = None,
        levels: tuple[float, ...] | None = LEVELS,
        horizon: int = 64,
        drawdown_penalty: float = 0.02,
        worst_reward: float = -0.5,
        expected_reward: bool = False,
    ) -> None:
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {horizon}")
        ledger = Account(account)
        self.limit = ledger.config.max_leverage
        if levels is not None and (not levels or max(map(abs, levels)) > self.limit):
            raise ValueError(f"levels must lie within +-{self.limit}, got {levels}")
        self.model, self.horizon = model, horizon
        self.levels = None if levels is None else torch.tensor(levels, dtype=torch.float64)
        self.desk = Desk(
            model,
            ledger,
            n,
            drawdown_penalty=drawdown_penalty,
            worst_reward=worst_reward,
            expected_reward=expected_reward,
        )
        seen = n_inputs(model.config["d_input"])
        self.observation_space = gym.spaces.Box(-SEEN_LIMIT, SEEN_LIMIT, (seen,), np.float32)
        if levels is None:
            self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        else:
            self.action_space = gym.spaces.Discrete(len(levels))

    def target(self, action: np.ndarray) -> Tensor:
        """Leverage (N,) that actions (N,) or (N, 1) ask for."""
        if self.levels is None:
            share = torch.as_tensor(np.asarray(action, dtype=np.float64)).reshape(-1)
            return share.clamp(-1, 1) * self.limit
        return self.levels[torch.as_tensor(np.asarray(action)).reshape(-1).long()]

    def account(self) -> dict[str, np.ndarray]:
        """Equity, leverage and drawdown (N,) as they stand."""
        state = self.desk.state
        return {k: getattr(state, k).numpy() for k in ("equity", "leverage", "drawdown")}


class _OnePath(gym.Env):
    """One account on one path after the other."""

    metadata = {"render_modes": []}

    def __init__(self, model: WorldModel | Ensemble, **terms: Any) -> None:
        self.trading = Trading(model, 1, **terms)
        self.observation_space = self.trading.observation_space
        self.action_space = self.trading.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; ``seed`` makes it and all that follow the same again."""
        super().reset(seed=seed)
        self._begin(options or {}, anew=seed is not None)
        return self._see(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold what ``action`` asks for through one tick; the reward is in basis points."""
        reward, ruined, cut = self.trading.desk.trade(self.trading.target(np.asarray(action)))
        terminated = bool(ruined)
        return self._see(), float(reward), terminated, bool(cut) and not terminated, self._info()

    def _begin(self, options: dict[str, Any], anew: bool) -> None:
        raise NotImplementedError

    def _see(self) -> np.ndarray:
        return self.trading.desk.see()[0].numpy()

    def _info(self) -> dict[str, Any]:
        return {k: float(v[0]) for k, v in self.trading.account().items()}


class _Pool:
    """Dreams made ahead, handed out one after the other."""

    def __init__(
        self,
        trading: Trading,
        context: Market | Tensor,
        halt: Halt | None,
        temperature: float,
    ) -> None:
        self.trading, self.halt, self.temperature = trading, halt, temperature
        self.belief = observe(trading.model, context)
        self.left: list[int] = []

    def take(self, count: int, rng: np.random.Generator) -> Tensor:
        """Rows (count,) of ``desk.paths`` that nobody has traded in; all of one pool.

        A pool with fewer dreams left is put aside whole: rows of two would not share a ``Dream``.
        """
        if len(self.left) < count:
            size = max(POOL, count)
            contexts = torch.from_numpy(rng.integers(len(self.belief.features), size=size))
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            paths = dream(
                self.trading.model,
                self.belief.take(contexts),
                n_dreams=1,
                horizon=self.trading.horizon,
                generator=generator,
                temperature=self.temperature,
                halt=self.halt,
            )
            self.trading.desk.paths = end_explosions(paths)
            # a dream that was over before its first tick has nothing to trade
            self.left = self.trading.desk.paths.alive[:, 0].nonzero().flatten().tolist()
            if len(self.left) < count:
                raise ValueError(
                    f"halt: it ends {size - len(self.left)} of {size} dreams before their first "
                    "tick; loosen its threshold, or take other contexts"
                )
        rows, self.left = self.left[:count], self.left[count:]
        return torch.tensor(rows)


class DreamEnv(_OnePath):
    """An account that trades in the model's dreams, one dream an episode (chapter 07).

    Args:
        model: the world model, frozen; or an ensemble.
        context: where dreams start, a ``Market`` or raw features (B, T, F); one of the B is drawn
            for each dream.
        halt: ends dreams that are not to be believed; the episode is then truncated.
        temperature: of the dreams.
        terms: ``account``, ``levels``, ``horizon``, ``drawdown_penalty``, ``worst_reward``,
            ``expected_reward``, as for ``Trading``.

    Raises:
        ValueError: a context that ``observe`` refuses, or terms that ``Trading`` does.
    """

    def __init__(
        self,
        model: WorldModel | Ensemble,
        context: Market | Tensor,
        *,
        halt: Halt | None = None,
        temperature: float = 1.0,
        **terms: Any,
    ) -> None:
        super().__init__(model, **terms)
        self.pool = _Pool(self.trading, context, halt, temperature)

    def _begin(self, options: dict[str, Any], anew: bool) -> None:
        if anew:
            self.pool.left = []
        row = self.pool.take(1, self.np_random)
        everyone, zero = torch.ones(1, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
        self.trading.desk.seat(everyone, row, zero, self.trading.horizon)


class MarketEnv(_OnePath):
    """The same account on ticks that happened (chapter 07).

    Args:
        model: watches the market; its forecasts are part of what the agent sees.
        market: B paths; an episode is ``horizon`` ticks of one of them, from a random tick on.
        warmup: ticks at the start of each path that only fill the model's state.
        terms: as for ``DreamEnv``.

    ``reset`` takes ``options={"path": i, "tick": t}`` to begin at tick t after the warm-up.

    Raises:
        ValueError: paths shorter than ``warmup + horizon``, a gap, or an impossible start.
    """

    def __init__(
        self, model: WorldModel | Ensemble, market: Market, *, warmup: int = 100, **terms: Any
    ) -> None:
        super().__init__(model, **terms)
        self.trading.desk.paths = watch(model, market, warmup)
        self.n_starts = self.trading.desk.paths.horizon - self.trading.horizon + 1
        if self.n_starts < 1:
            raise ValueError(
                f"market has {market.features.shape[1]} ticks a path, an episode needs "
                f"{warmup} + {self.trading.horizon}"
            )

    def _begin(self, options: dict[str, Any], anew: bool) -> None:
        n_paths = len(self.trading.desk.paths)
        row = options.get("path", int(self.np_random.integers(n_paths)))
        tick = options.get("tick", int(self.np_random.integers(self.n_starts)))
        if not (0 <= row < n_paths and 0 <= tick < self.n_starts):
            raise ValueError(
                f"options: path must lie below {n_paths} and tick below {self.n_starts}, "
                f"got {row} and {tick}"
            )
        everyone = torch.ones(1, dtype=torch.bool)
        where = torch.tensor([row]), torch.tensor([tick])
        self.trading.desk.seat(everyone, *where, self.trading.horizon)


class DreamVectorEnv(VectorEnv):
    """Many dreams traded side by side in one call: ``DreamEnv``, N at a time (chapter 07).

    All N begin together, and again together when the last of them is over. One that ended before
    waits, flat, with reward 0 and both flags False: ``info["waiting"]`` says which do. (Gymnasium's
    own modes would restart it at once, in a dream of another length than its neighbours'.)

    Args:
        model, context, halt, temperature, terms: as for ``DreamEnv``.
        num_envs: N.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.DISABLED}

    def __init__(
        self,
        model: WorldModel | Ensemble,
        context: Market | Tensor,
        *,
        num_envs: int = 1,
        halt: Halt | None = None,
        temperature: float = 1.0,
        **terms: Any,
    ) -> None:
        self.trading = Trading(model, num_envs, **terms)
        self.pool = _Pool(self.trading, context, halt, temperature)
        self.num_envs = num_envs
        self.single_observation_space = self.trading.observation_space
        self.single_action_space = self.trading.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.over = torch.zeros(num_envs, dtype=torch.bool)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin N dreams."""
        super().reset(seed=seed)
        if seed is not None:
            self.pool.left = []
        rows = self.pool.take(self.num_envs, self.np_random)
        everyone = torch.ones(self.num_envs, dtype=torch.bool)
        self.trading.desk.seat(everyone, rows, torch.zeros_like(rows), self.trading.horizon)
        self.over = ~everyone
        return self.trading.desk.see().numpy(), self._info()

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One tick of every dream."""
        if self.over.all():
            raise RuntimeError("every dream is over: call reset")
        waiting, desk = self.over, self.trading.desk
        target = torch.where(waiting, 0.0, self.trading.target(actions))
        reward, ruined, cut = desk.trade(target)
        terminated, truncated = ruined & ~waiting, cut & ~ruined & ~waiting
        self.over = waiting | ruined | cut
        reward = torch.where(waiting, 0.0, reward)
        flags = (terminated.numpy(), truncated.numpy())
        return (
            desk.see().numpy(),
            reward.numpy(),
            *flags,
            self._info() | {"waiting": waiting.numpy()},
        )

    def _info(self) -> dict[str, np.ndarray]:
        return self.trading.account()


gym.register(
    "mambadream/Dream-v0",
    entry_point="mambadream_lite.dream.env:DreamEnv",
    vector_entry_point="mambadream_lite.dream.env:DreamVectorEnv",
)
gym.register("mambadream/Market-v0", entry_point="mambadream_lite.dream.env:MarketEnv")
