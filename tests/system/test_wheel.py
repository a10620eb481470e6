"""The wheel: it holds what a user needs and nothing else, and runs away from the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
FSEG_ONLY = ("scipy", "skimage", "segment_anything")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel: Path) -> Path:
    folder = wheel.parent / "site"
    ZipFile(wheel).extractall(folder)
    return folder


def run(code: str, unpacked: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code that sees the wheel's packages before the repository's, in another folder."""
    start = f"import sys; sys.path.insert(0, {str(unpacked)!r}); "
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-P", "-c", start + code, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_wheel_holds_the_embedded_models_and_not_their_training(wheel: Path) -> None:
    files = ZipFile(wheel).namelist()
    assert "fseg/glyphs/weights/sam.safetensors" in files
    assert {f"probe/views/page/page.{kind}" for kind in ("html", "css", "js")} <= set(files)
    assert {"probe/__init__.pyi", "fseg/__init__.pyi", "probe/py.typed", "fseg/py.typed", "recipes/py.typed"} <= set(files)
    assert [name for name in files if "train" in name or name.startswith(("tests/", "docs/"))] == []


@pytest.mark.slow
def test_the_wheel_holds_the_shipped_sprites_with_their_licences(wheel: Path) -> None:
    archive = ZipFile(wheel)
    sheets = [name for name in archive.namelist() if name.startswith("fseg/stickers/sheets/") and name.endswith(".png")]
    assert sorted(Path(name).stem for name in sheets) == ["fluent-emoji", "fluent-emoji-flat", "fxemoji", "noto", "noto-v1"]
    (notice,) = [name for name in archive.namelist() if name.endswith("licenses/fseg/stickers/sheets/NOTICE")]
    text = archive.read(notice).decode()
    assert all(f"{Path(name).name}" in text for name in sheets)
    assert "MIT License" in text
    assert "Apache License, Version 2.0" in text


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel_in_another_folder(unpacked: Path, tmp_path: Path) -> None:
    ended = run("import fseg; from fseg.cli import main; print(fseg.__file__, flush=True); main()", unpacked, tmp_path, "demo")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(str(unpacked))
    assert (tmp_path / "demo" / "scene-1.png").is_file()


@pytest.mark.slow
def test_probe_works_from_the_wheel_without_what_only_fseg_needs(unpacked: Path, tmp_path: Path) -> None:
    code = f"""
sys.modules.update(dict.fromkeys({FSEG_ONLY!r}))
import probe
folder = {str(unpacked / "fseg" / "glyphs" / "weights" / "llava")!r}
model = probe.load(folder)
print(model.inspect()["family"])
"""
    ended = run(f"exec({code!r})", unpacked, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("llava")
