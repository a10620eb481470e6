"""The documentation: it builds without a broken link, its tutorials run, and every error has a cure."""

from __future__ import annotations

import importlib
import inspect
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import numpy as np
import pytest
from PIL import Image

import fseg
import fseg.errors
import probe
import probe.errors

ROOT = Path(__file__).parents[2]
ERRORS = [
    value
    for module in (probe.errors, fseg.errors)
    for value in vars(module).values()
    if inspect.isclass(value) and value.__module__ == module.__name__ and value not in (probe.errors.ProbeError, fseg.errors.FsegError)
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_says_what_cures_it(error: type[Exception]) -> None:
    cause, _, cure = (inspect.getdoc(error) or "").partition("\n\nCure: ")
    assert cause
    assert cure.split("\n\n")[0].endswith((".", ").")), "a sentence"


def run_code(page: str) -> dict[str, object]:
    """Run a page's Python from top to bottom: the names that it leaves."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    names: dict[str, object] = {}
    exec(compile("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), page, "exec"), names)
    return names


@pytest.mark.parametrize("name", ["look", "segment"])
def test_a_tutorial_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # it draws pictures
    run_code(f"tutorials/{name}.md")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".png"] * {"look": 2, "segment": 1}[name]


@pytest.mark.slow
def test_the_lines_of_the_gallery_make_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_code("gallery.md")
    shown = re.findall(r"\]\(gallery/(\w+)\.png\)", (ROOT / "docs/gallery.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(path.stem for path in tmp_path.iterdir())  # pages are shown as screenshots
    assert sorted(shown) == sorted(path.stem for path in (ROOT / "docs/gallery").iterdir())


@pytest.mark.slow
def test_results_are_exported_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_code("exports.md")["result"]
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith(("cat", "umbrella", "['"))] == [
        "cat True",  # as COCO decodes it
        "umbrella True",
        "cat True",  # as NumPy reads them
        "umbrella True",
        "cat True 1",  # as polygons
        "umbrella True 2",
        "['cat' 'umbrella']",  # as supervision's detections
    ]
    np.testing.assert_array_equal(np.asarray(Image.open("cat.png")) == 255, result.masks["cat"])  # type: ignore[attr-defined]


def test_every_public_name_has_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(name: str, mode: str) -> IO[str]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        return (tmp_path / name).open(mode, encoding="utf-8")

    monkeypatch.setitem(sys.modules, "mkdocs_gen_files", SimpleNamespace(open=opened))
    doors = runpy.run_path(str(ROOT / "docs/site/pages.py"))["DOORS"]
    modules = {
        f"{package.__name__}.{name}" for package in (probe, fseg) for name in package.__all__ if inspect.ismodule(getattr(package, name))
    }
    assert modules - {"probe.errors", "fseg.errors"} <= set(doors)  # the errors' page is the troubleshooting
    public = {f"{door}.{name}" for door in doors for name in importlib.import_module(door).__all__}
    pages = {f"{path.parent.name}.{path.stem}" for path in (tmp_path / "reference").glob("*/*.md")}
    assert pages == {name for name in public - modules if not name.rpartition(".")[2].startswith("_")}
    listed = (tmp_path / "reference/SUMMARY.md").read_text(encoding="utf-8")
    assert all(f"({name.rpartition('.')[0]}/{name.rpartition('.')[2]}.md)" in listed for name in pages)


@pytest.mark.slow
def test_the_site_builds_without_a_broken_link(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    activation = (tmp_path / "reference/probe/Activation/index.html").read_text(encoding="utf-8")
    assert "What a model computed at some layers and positions" in activation
    assert "to_xarray" in activation  # what it inherits
    assert (tmp_path / "examples/logit_lens/index.html").exists()
