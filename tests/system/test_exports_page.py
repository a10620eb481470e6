"""docs/exports.md: its code, run as it stands there, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PAGE = Path(__file__).parents[2] / "docs" / "exports.md"


@pytest.mark.slow
def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 5
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith(("cat", "umbrella", "['"))] == [
        "cat True",  # as COCO decodes it
        "umbrella True",
        "cat True 1",  # as polygons
        "umbrella True 2",
        "['cat' 'umbrella']",  # as supervision's detections
    ]
    cat = np.asarray(Image.open("cat.png")) == 255
    np.testing.assert_array_equal(cat, names["result"].masks["cat"])  # type: ignore[attr-defined]
