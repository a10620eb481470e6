"""One small job for the tests of runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import probe
from fseg.evaluation.run.job import Job
from fseg.sweep import Sweep
from tests.unit.fseg.evaluation.runs import job_of, planted, scenes


@pytest.fixture(scope="session")
def models() -> tuple[probe.Probe, Any]:
    return planted()


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes(tmp_path_factory.mktemp("set"))


@pytest.fixture
def job(root: Path, models: tuple[probe.Probe, Any]) -> Job:
    return job_of(root, *models, save_masks=True)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """One entry for each image that is segmented."""
    calls: list[tuple[int, int]] = []
    real = Sweep.steps

    def counted(self: Sweep, image: Any, classes: Any, **more: Any) -> Any:
        calls.append(image.images[0].size)
        return real(self, image, classes, **more)

    monkeypatch.setattr(Sweep, "steps", counted)
    return calls
