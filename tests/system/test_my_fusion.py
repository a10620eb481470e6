"""A fusion by somebody outside (examples/my_fusion.py): its saved recipe is replayed from the shell, by --import and by an entry point."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fseg.cli
from fseg.fusion_methods import registry
from fseg.glyphs import CLASSES, scene
from fseg.plugins import import_named
from tests.system.shell import Shell

EXAMPLE = Path(__file__).parents[2] / "examples/my_fusion.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image, and the recipe as a session that registered the fusion saved it."""
    place = tmp_path_factory.mktemp("outside")
    scene(1).image.save(place / "scene.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))
        import_named([str(EXAMPLE)])
        module = sys.modules[registry.get_fusion("my-sharp").function.__module__]
        (place / "saved.toml").write_text(module.recipe().to_toml())
    return place


def arguments(folder: Path, out: str, *more: str) -> list[str]:
    classes = ",".join(scene(1).classes)
    given = [str(folder / "scene.png"), "--classes", classes, "--recipe", str(folder / "saved.toml"), "--out", str(folder / out)]
    return ["segment", *given, *more]


def elsewhere(given: list[str], path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`fseg` in a process of its own, with this folder among its modules."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, filter(None, (path, os.environ.get("PYTHONPATH")))))}
    command = [sys.executable, "-c", "from fseg.cli import main; main()", *given]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow  # two processes that each load the models
def test_the_saved_recipe_is_replayed_by_import_and_by_entry_point(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(monkeypatch, capsys)
    code, _, printed = shell(fseg.cli, *arguments(folder, "refused"))
    assert code != 0
    assert 'No fusion "my-sharp"' in printed
    assert "--import MODULE_OR_FILE.py" in printed

    assert elsewhere(arguments(folder, "imported", "--import", str(EXAMPLE))).returncode == 0

    installed = tmp_path / "installed"  # what pip leaves of a package with that entry point
    (installed / "my_fusion-1.0.dist-info").mkdir(parents=True)
    (installed / "my_fusion-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: my-fusion\nVersion: 1.0\n")
    (installed / "my_fusion-1.0.dist-info" / "entry_points.txt").write_text("[fseg.recipes]\nmy-sharp = my_fusion:recipe\n")
    (installed / "my_fusion.py").write_text(EXAMPLE.read_text())
    ended = elsewhere(arguments(folder, "installed"), installed)
    assert ended.returncode == 0, ended.stderr

    labels = [np.asarray(Image.open(folder / out / "scene" / "labels.png")) for out in ("imported", "installed")]
    assert np.array_equal(*labels)
    shown = scene(1)
    for index, name in enumerate(shown.classes, start=1):
        predicted, truth = labels[0] == index, shown.labels == CLASSES.index(name) + 1
        assert (predicted & truth).sum() / (predicted | truth).sum() > 0.7
