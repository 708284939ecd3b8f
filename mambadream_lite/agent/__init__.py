"""Traders: the old rules, PPO trained in dreams, and planning by dreaming."""

from mambadream_lite.agent.mpc import MPC, Decision, base_rate
from mambadream_lite.agent.optimal import OptimalRule
from mambadream_lite.agent.policies import (
    BuyAndHold,
    Episode,
    MovingAverageRule,
    Observation,
    Policy,
    replay,
    trade_log,
)
from mambadream_lite.agent.ppo import PPO, PPOConfig, dream_and_train

__all__ = [
    "MPC",
    "PPO",
    "BuyAndHold",
    "Decision",
    "Episode",
    "MovingAverageRule",
    "Observation",
    "OptimalRule",
    "PPOConfig",
    "Policy",
    "base_rate",
    "dream_and_train",
    "replay",
    "trade_log",
]
