"""The names that code outside this repository relies on."""

import importlib

import pytest

PUBLIC = {
    "market": [
        "HestonParams",
        "simulate_heston",
        "Market",
        "make_heston_market",
        "FEATURES",
        "Scaler",
        "load_sp500",
        "load_klines",
        "load_lobster",
        "bayes_log_score",
        "Account",
        "AccountConfig",
    ],
    "model": [
        "Mamba",
        "MambaWorldModel",
        "TransformerWorldModel",
        "Ensemble",
        "fit",
        "save_world_model",
        "load_world_model",
    ],
    "dream": ["dream", "Dream", "DreamEnv", "MarketEnv"],
    "agent": ["PPO", "MPC", "MovingAverageRule", "BuyAndHold", "dream_and_train"],
    "judge": ["log_score", "crps", "pit", "stylised_facts", "backtest"],
}
NAMES = [(folder, name) for folder, names in PUBLIC.items() for name in names]


@pytest.mark.parametrize(("folder", "name"), NAMES)
def test_a_public_name_imports(folder: str, name: str) -> None:
    package = importlib.import_module(f"mambadream_lite.{folder}")
    assert hasattr(package, name)
    assert name in package.__all__


@pytest.mark.parametrize("folder", PUBLIC)
def test_all_that_a_folder_declares_is_there(folder: str) -> None:
    package = importlib.import_module(f"mambadream_lite.{folder}")
    assert all(hasattr(package, name) for name in package.__all__)
    assert len(set(package.__all__)) == len(package.__all__)
