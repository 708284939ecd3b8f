"""The world model: the Mamba block, its heads, and how it is trained."""

from mambadream_lite.model.checkpoint import fingerprint, load_world_model, save_world_model
from mambadream_lite.model.ensemble import (
    Ensemble,
    EnsembleLaw,
    fit_ensemble,
)
from mambadream_lite.model.heads import MixtureOfGaussians
from mambadream_lite.model.mamba import Mamba, MambaState
from mambadream_lite.model.run import History
from mambadream_lite.model.training import evaluate, fit, sample_windows
from mambadream_lite.model.transformer import TransformerWorldModel
from mambadream_lite.model.world_model import Hidden, MambaWorldModel, WorldModel

__all__ = [
    "Ensemble",
    "EnsembleLaw",
    "Hidden",
    "History",
    "Mamba",
    "MambaState",
    "MambaWorldModel",
    "MixtureOfGaussians",
    "TransformerWorldModel",
    "WorldModel",
    "evaluate",
    "fingerprint",
    "fit",
    "fit_ensemble",
    "load_world_model",
    "sample_windows",
    "save_world_model",
]
