"""Fetching the sets: which drawing is taken, and what becomes of it."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from fseg.stickers.fetch import Icons, _reduced, _svg, main
from fseg.stickers.sprites import sheet_file

ICONS: Icons = {
    "icons": {"automobile": {"body": "<a/>"}, "alarmclock": {"body": "<b/>", "left": -2, "width": 20}, "sheep": {"body": "<c/>"}},
    "aliases": {"grinning-cat": {"parent": "automobile"}},
    "width": 32,
    "height": 16,
}


@pytest.mark.parametrize(
    ("drawing", "body"),
    [("automobile", "<a/>"), ("grinning-cat", "<a/>"), ("alarm-clock", "<b/>"), ("ewe", "<c/>")],
    ids=["its name", "an alias", "without hyphens", "another name"],
)
def test_a_drawing_is_found_by(drawing: str, body: str) -> None:
    assert body in str(_svg(ICONS, drawing))


def test_a_drawing_that_a_set_does_not_have_is_left_out() -> None:
    assert _svg(ICONS, "bicycle") is None


def test_a_drawing_s_own_box_goes_before_the_set_s() -> None:
    assert 'viewBox="0 0 32 16"' in str(_svg(ICONS, "automobile"))
    assert 'viewBox="-2 0 20 16"' in str(_svg(ICONS, "alarm-clock"))


def test_sheets_have_few_levels_and_no_colour_where_nothing_is_seen() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 4), dtype=np.uint8))
    values = np.asarray(_reduced(noise))
    assert len(np.unique(values[..., :3])) <= 32
    assert len(np.unique(values[..., 3])) == 16
    assert not values[values[..., 3] == 0].any()
    with Image.open(sheet_file("noto")) as shipped:
        assert np.array_equal(np.asarray(_reduced(shipped)), np.asarray(shipped))


@pytest.mark.parametrize(("missing", "message"), [("npm", "npm, which fetches"), ("resvg_py", "pip install 'fseg-llava[train]'")])
def test_a_tool_that_is_missing_is_named(missing: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == missing else f"/bin/{name}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else object())
    app = typer.Typer()
    app.command()(main)
    printed = CliRunner().invoke(app, [str(tmp_path / "sheets")], env={"COLUMNS": "400"})
    assert printed.exit_code == 2
    assert message in printed.output
    assert not (tmp_path / "sheets").exists()
