"""The fault campaigns in their short form; `python -m tests.faults` is the full one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.faults import Campaign, campaigns

QUICK = ("backbone-tensors", "images", "kills", "nan-weights", "recipe-toml", "sam-folders")


@pytest.mark.parametrize(
    "campaign",
    [pytest.param(each, marks=() if each.name in QUICK else pytest.mark.slow, id=each.name) for each in campaigns()],
)
def test_no_fault_goes_unnoticed(campaign: Campaign, tmp_path: Path) -> None:
    outcomes = list(campaign.trials(campaign.short, tmp_path, np.random.default_rng(0)))
    assert len(outcomes) >= min(campaign.short, 1)
    assert [outcome.fault for outcome in outcomes if outcome.fault] == []
