"""Shell completion: commands, and the data sets that an option takes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("words", "position", "completed"),
    [("fseg da", 1, ["datasets"]), ("fseg eval --dataset coco", 3, ["coco-object", "coco-stuff"]), ("fseg eval --engine r", 3, ["ray"])],
)
def test_a_shell_completes_commands_and_values(words: str, position: int, completed: list[str]) -> None:
    code = "import sys; sys.argv = ['fseg']; from fseg.cli import main; main()"
    wanted = {"_FSEG_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    ended = subprocess.run([sys.executable, "-c", code], env={**os.environ, **wanted}, capture_output=True, text=True, check=False)
    assert ended.stdout.split() == completed
