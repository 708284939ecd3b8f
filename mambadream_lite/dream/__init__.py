"""Dreams: the generative loop of the world model."""

from mambadream_lite.dream.rollout import (
    Belief,
    Dream,
    advance,
    dream,
    foreseen,
    observe,
    watch,
)

__all__ = ["Belief", "Dream", "advance", "dream", "foreseen", "observe", "watch"]
