"""Dreams: the generative loop of the world model."""

from mambadream_lite.dream.env import DreamEnv, DreamVectorEnv, MarketEnv
from mambadream_lite.dream.explosion import end_explosions
from mambadream_lite.dream.halt import (
    any_halt,
    disagreement_halt,
    disagreement_threshold,
    feature_halt,
    pause,
    range_halt,
    surprise_threshold,
    surprised,
)
from mambadream_lite.dream.quote import Quoted, quote
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
    "Quoted",
    "advance",
    "any_halt",
    "disagreement_halt",
    "disagreement_threshold",
    "dream",
    "end_explosions",
    "feature_halt",
    "foreseen",
    "observe",
    "pause",
    "quote",
    "range_halt",
    "surprise_threshold",
    "surprised",
    "watch",
]
