"""The documentation: it builds without a broken link, its tutorials run, and every error has a cure."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fseg.errors
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
        "cat True 1",  # as polygons
        "umbrella True 2",
        "['cat' 'umbrella']",  # as supervision's detections
    ]
    np.testing.assert_array_equal(np.asarray(Image.open("cat.png")) == 255, result.masks["cat"])  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_site_builds_without_a_broken_link_and_has_a_page_for_every_public_name(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    for module in (probe, fseg):
        names = [name for name in module.__all__ if not name.startswith("_") and not inspect.ismodule(getattr(module, name))]
        pages = {path.parent.name for path in (tmp_path / "reference" / module.__name__).glob("*/index.html")}
        assert pages == set(names)
    activation = (tmp_path / "reference/probe/Activation/index.html").read_text(encoding="utf-8")
    assert "What a model computed at some layers and positions" in activation
    assert "to_xarray" in activation  # what it inherits
    assert (tmp_path / "examples/logit_lens/index.html").exists()
