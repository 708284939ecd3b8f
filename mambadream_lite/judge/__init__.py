"""Judging: proper scores, stylised facts, intervals."""

from mambadream_lite.judge.scores import block_mean, crps, energy_score, log_score, pit
from mambadream_lite.judge.stylised import Fact, stylised_facts

__all__ = ["Fact", "block_mean", "crps", "energy_score", "log_score", "pit", "stylised_facts"]
