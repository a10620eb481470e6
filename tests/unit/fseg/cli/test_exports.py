"""The files of a command for other tools are checked before the work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fseg.cli.exports import Exports
from fseg.errors import OutputError
from probe.errors import PackageNeeded


@pytest.mark.parametrize(("package", "option"), [("shapely", "--polygons"), ("pycocotools.mask", "--coco")])
def test_a_missing_package_stops_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str, option: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PackageNeeded, match=f"{option} needs {package.partition('.')[0]}"):
        Exports(("cat",), tmp_path / "coco.json", polygons=True).check([], [], overwrite=False)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("image.png", "would be written over"),
        ("out/street/coco.json", "lies in .*street', the folder of a result"),
        ("out/street", "lies in .*street', the folder of a result"),
        ("out", "is a folder"),
        ("image.png/coco.json", "cannot be written"),
    ],
)
def test_a_coco_file_has_a_place_of_its_own(tmp_path: Path, file: str, message: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "image.png").write_text("")
    with pytest.raises(OutputError, match=message):
        Exports(("cat",), tmp_path / file, polygons=False).check([tmp_path / "image.png"], [tmp_path / "out/street"], overwrite=True)
