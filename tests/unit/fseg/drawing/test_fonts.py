"""Names in scripts that matplotlib's font lacks: drawn in a font that has them, or said to be drawn as boxes."""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.font_manager import FontEntry, fontManager
from PIL import Image

from fseg.drawing import fonts
from fseg.drawing.fonts import file_for, fonts_for
from fseg.drawing.label_map import overlay
from fseg.glyphs.font import font_file

RING = "\u20dd"
"""A character that matplotlib's STIX has and its DejaVu has not."""
CAT = "\u732b"
STIX = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "STIXGeneral.ttf"


@pytest.fixture(autouse=True)
def only_matplotlibs_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is installed here."""
    bundled = str(STIX.parent)
    monkeypatch.setattr(fontManager, "ttflist", [entry for entry in fontManager.ttflist if entry.fname.startswith(bundled)])


def test_a_text_that_the_base_has_needs_no_other() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert file_for("a caf\u00e9, \u0436\n\t") == font_file()


def test_what_the_base_lacks_is_drawn_in_a_font_that_has_it() -> None:
    assert file_for(f"cat {RING}") == STIX
    with fonts_for([f"cat {RING}"]):
        assert matplotlib.rcParams["font.family"] == ["DejaVu Sans", "STIXGeneral"]
    assert matplotlib.rcParams["font.family"] != ["DejaVu Sans", "STIXGeneral"]


def test_what_no_font_has_is_named_with_a_font_to_install() -> None:
    with pytest.warns(UserWarning, match=f"No installed font has '{CAT}'.*fonts-noto-cjk"):
        assert file_for(f"cat {CAT}{CAT}") == font_file()
    with pytest.warns(UserWarning, match=CAT):
        assert file_for(f"{RING}{CAT}") == STIX  # what can be drawn is


def test_a_legend_is_drawn_in_that_font() -> None:
    image, labels = Image.new("RGB", (200, 20)), np.ones((20, 200), dtype=int)
    drawn = np.asarray(overlay(image, labels, [RING]))
    fontManager.ttflist = []
    with pytest.warns(UserWarning, match=RING):
        assert not np.array_equal(drawn, np.asarray(overlay(image, labels, [RING])))


def test_a_font_that_is_gone_has_no_characters(tmp_path: Path) -> None:
    fontManager.ttflist = [FontEntry(fname=str(tmp_path / "gone.ttf"), name="Gone", style="normal", weight="regular")]
    with pytest.warns(UserWarning, match=RING):
        assert file_for(RING) == font_file()


def test_weights_by_name_are_numbers() -> None:
    assert [fonts._weight(weight) for weight in (400, "bold", "regular")] == [400, 700, 400]
