"""Dreams for stable-baselines3: its PPO in the same environment, as an independent opponent."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from mambadream_lite.dream.env import DreamVectorEnv


class DreamVecEnv(VecEnv):
    """``DreamVectorEnv`` with the interface that stable-baselines3 asks for.

    All dreams have one horizon and begin together. One that ends early is reported as over in
    every tick that it waits, with reward 0 and, for a horizon, what it saw last.

    Args:
        env: many dreams side by side.
        seed: of all dreams.
    """

    def __init__(self, env: DreamVectorEnv, seed: int) -> None:
        self.env, self.first_seed = env, seed  # first: the base class asks for attributes
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.actions: np.ndarray | None = None

    def reset(self) -> np.ndarray:
        """Begin all dreams."""
        seen, _ = self.env.reset(seed=self.first_seed)
        return seen

    def step_async(self, actions: np.ndarray) -> None:
        """Keep what is to be done."""
        self.actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Do it."""
        seen, reward, terminated, truncated, info = self.env.step(self.actions)
        over = terminated | truncated | info["waiting"]
        infos = [
            {"terminal_observation": seen[i], "TimeLimit.truncated": bool(truncated[i])}
            if over[i]
            else {}
            for i in range(self.num_envs)
        ]
        if over.all():
            seen, _ = self.env.reset()
        return seen, reward.astype(np.float32), over, infos

    def close(self) -> None:
        """Nothing is open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same attribute for all."""
        return [getattr(self.env, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Not supported: the dreams share one environment."""
        raise NotImplementedError("the dreams share one environment")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **more: Any) -> list:
        """Not supported: the dreams share one environment."""
        raise NotImplementedError("the dreams share one environment")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Nothing is wrapped."""
        return [False] * self.num_envs
