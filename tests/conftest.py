"""Shared fixtures: few, tiny, built once."""

import os

# Before torch is imported, here and in the processes that tests start: tiny models gain nothing from a second thread, and two that wait
# for each other on a busy machine take many times as long as one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray gives its workers niceness 15, so that they wait for the other test processes: tests of clusters took minutes.
os.environ.setdefault("RAY_worker_niceness", "0")
# No test needs the network. Without this, a name that is nothing here is asked of the hub for 20 seconds.
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from tests.shapes import install

install()  # before the packages are imported

import probe  # noqa: E402, F401  # before transformers, which imports torchvision: a test file may be run by itself

# `pytest --hypothesis-profile=full` is the long form.
settings.register_profile("short", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("full", max_examples=10_000, deadline=None)
settings.load_profile("short")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests that start other processes, wait for them."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first: last, one of them would run alone while the other processes have nothing left."""
    items.sort(key=lambda item: "system" not in item.path.parts)


@pytest.fixture(scope="session")
def wide_image() -> Image.Image:
    """A picture of 40 x 80 pixels (height, width), noise with a fixed seed."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8))
