"""Dreams: the generative loop of the world model."""

from mambadream_lite.dream.env import DreamEnv, DreamVectorEnv, MarketEnv
from mambadream_lite.dream.halt import (
    any_halt,
    disagreement_halt,
    disagreement_threshold,
    feature_halt,
    range_halt,
)
from mambadream_lite.dream.rollout import (
    Belief,
    Dream,
    advance,
    dream,
    foreseen,
    observe,
    watch,
)

__all__ = [
    "Belief",
    "Dream",
    "DreamEnv",
    "DreamVectorEnv",
    "MarketEnv",
    "advance",
    "any_halt",
    "disagreement_halt",
    "disagreement_threshold",
    "dream",
    "feature_halt",
    "foreseen",
    "observe",
    "range_halt",
    "watch",
]
