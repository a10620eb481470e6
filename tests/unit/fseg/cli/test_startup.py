"""Start-up: what only prints text does not import torch, which takes longer than everything else together."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("matplotlib", "nnsight", "scipy", "segment_anything", "skimage", "torch", "torchvision", "transformers")
COMMANDS = ("demo", "segment", "view", "figure", "recipes", "datasets", "eval", "calibrate", "merge", "ablate", "compare", "heads", "table")


def imported(code: str) -> list[str]:
    """The heavy packages that a fresh interpreter has imported after running this code."""
    report = f"\nimport json, sys; print('\\n' + json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    ended = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return list(json.loads(ended.stdout.splitlines()[-1]))


def of_command(*lines: tuple[str, ...]) -> str:
    """Code that runs `fseg` with each of these arguments in turn."""
    return f"""
import sys
from contextlib import suppress
from fseg.cli import main
for arguments in {lines}:
    sys.argv = ["fseg", *arguments]
    with suppress(SystemExit):
        main()
"""


def test_help_the_version_and_a_mistyped_option_import_nothing_heavy() -> None:
    helps = [("--help",), *((name, "--help") for name in COMMANDS)]
    wrong = [("segment", "--mistyped"), ("eval", "--shards", "2"), ("figure", "4"), ("ablate", "7"), ("nothing",)]
    assert imported(of_command(("--version",), *helps, *wrong)) == []


@pytest.mark.parametrize("code", ["import fseg", "import fseg; dir(fseg); fseg.FsegError", of_command(("datasets",))])
def test_what_needs_no_tensor_imports_no_torch(code: str) -> None:
    assert imported(code) == []


def test_listing_the_recipes_imports_torch_and_nothing_else_heavy() -> None:
    assert imported(of_command(("recipes",))) == ["torch"]


def test_the_test_sees_an_import() -> None:
    assert "matplotlib" in imported("import matplotlib")
