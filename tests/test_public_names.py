"""The names that code outside this repository relies on: here, or declared as coming."""

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
# What each one will be, and the chapter that will teach it. A name leaves this list when it
# can be imported.
COMING = {
    "backtest": "utility with bootstrap intervals, chapter 11",
}
NAMES = [(folder, name) for folder, names in PUBLIC.items() for name in names]


@pytest.mark.parametrize(("folder", "name"), NAMES)
def test_a_public_name_imports_or_is_declared_as_coming(folder: str, name: str) -> None:
    package = importlib.import_module(f"mambadream_lite.{folder}")
    if name in COMING:
        assert not hasattr(package, name), f"{name} is here: take it out of COMING"
    else:
        assert hasattr(package, name)
        assert name in package.__all__


def test_what_is_coming_is_a_public_name() -> None:
    assert set(COMING) <= {name for _, name in NAMES}


@pytest.mark.parametrize("folder", PUBLIC)
def test_all_that_a_folder_declares_is_there(folder: str) -> None:
    package = importlib.import_module(f"mambadream_lite.{folder}")
    assert all(hasattr(package, name) for name in package.__all__)
    assert len(set(package.__all__)) == len(package.__all__)
