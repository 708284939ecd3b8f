"""Traders: the old rules, PPO trained in dreams, and planning by dreaming."""

from mambadream_lite.agent.decision import Decision, Objective
from mambadream_lite.agent.mpc import MPC, Planner, base_rate
from mambadream_lite.agent.optimal import OptimalRule
from mambadream_lite.agent.policies import (
    BuyAndHold,
    Flat,
    LetDrift,
    MomentRule,
    MovingAverageRule,
    Observation,
    Policy,
)
from mambadream_lite.agent.ppo import PPO, PPOConfig
from mambadream_lite.agent.practice import dream_and_train
from mambadream_lite.agent.trading import Episode, PolicyError, replay, trade_log

__all__ = [
    "MPC",
    "PPO",
    "BuyAndHold",
    "Decision",
    "Episode",
    "Flat",
    "LetDrift",
    "MomentRule",
    "MovingAverageRule",
    "Objective",
    "Observation",
    "OptimalRule",
    "PPOConfig",
    "Planner",
    "Policy",
    "PolicyError",
    "base_rate",
    "dream_and_train",
    "replay",
    "trade_log",
]
