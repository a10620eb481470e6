"""The model of the tests of many inputs, new for each: some change it, and what its batches have shown is kept with it."""

from __future__ import annotations

import pytest

import probe
from tests import zoo


@pytest.fixture
def model() -> probe.Probe:
    hf, processor = zoo.llava()
    return probe.load(model=hf, processor=processor, resize="stretch", tiles=False)
