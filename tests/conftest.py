"""Fixtures for all tests."""

import logging
import os
from pathlib import Path

# Set before torch is imported, and inherited by all processes that tests start. Small models
# gain nothing from more threads, and on a busy machine, threads that wait for each other
# take ten times as long. Recipes count cores themselves.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items):
    """Mark tests of recipes and of real data; run recipes first, as they take longest."""
    for item in items:
        if item.path.parent.name == "recipes":
            item.add_marker("recipe")
        if "shared_data" in item.fixturenames:
            item.add_marker("data")
    items.sort(key=lambda item: item.get_closest_marker("recipe") is None)


def pytest_runtest_setup(item):
    """Skip tests marked ``gpu`` on machines without one."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


@pytest.fixture(autouse=True)
def same_process_after_each_test():
    """Check that each test restores the global state of the process."""

    def state():
        return {
            "logging.disable": logging.root.manager.disable,
            "folder": os.getcwd(),
            "dtype": torch.get_default_dtype(),
            "gradients": torch.is_grad_enabled(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }

    before = state()
    yield
    assert state() == before


@pytest.fixture
def exact_products(monkeypatch):
    """Exact single precision on a GPU, too: no TF32 in convolutions."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the excerpts of real corpora; it is not part of the project."""
    folder = Path(os.environ.get("BIRQ_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not there, set BIRQ_DATA")
    return folder


@pytest.fixture(scope="session")
def an4_tarball() -> Path:
    """Archive of mini AN4 in an ESPnet source tree."""
    espnet = Path(os.environ.get("ESPNET_ROOT", ROOT / "tools" / "espnet"))
    tarball = espnet / "egs2" / "mini_an4" / "asr1" / "downloads.tar.gz"
    if not tarball.is_file():
        pytest.skip(f"no mini AN4: {tarball} is not there, set ESPNET_ROOT")
    return tarball
