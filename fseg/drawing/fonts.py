"""Fonts for names and answers in any script: matplotlib's own, and for what it lacks one that is installed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.font_manager import fontManager, get_font

from fseg.glyphs.font import font_file

BASE = "DejaVu Sans"
"""The font that matplotlib brings: Latin, Greek, Cyrillic, Arabic, Hebrew and symbols."""
BOXES = "Last Resort High-Efficiency"
"""A font of matplotlib's that has a box for every character."""


@contextmanager
def fonts_for(texts: Iterable[str]) -> Iterator[None]:
    """Text that is put into a figure inside this block is drawn in `BASE`, and what `BASE` lacks in an installed font that has it.

    Warns:
        UserWarning: no installed font has some of the characters, which are drawn as boxes.
    """
    file = file_for("".join(texts))
    families = [BASE] if file == font_file() else [BASE, get_font(str(file)).family_name]
    with matplotlib.rc_context({"font.family": families}):
        yield


def file_for(text: str) -> Path:
    """The file of one font that has all characters of a text that `BASE` lacks: of `BASE` where it lacks none, or where no font has them.

    Warns:
        UserWarning: no installed font has them all.

    >>> file_for("cat").name
    'DejaVuSans.ttf'
    """
    missing = _lacking(font_file(), text)
    if not missing:
        return font_file()
    upright = [entry for entry in fontManager.ttflist if entry.style == "normal" and entry.name != BOXES]
    by_weight = sorted(upright, key=lambda entry: abs(_weight(entry.weight) - 400))
    left = {Path(entry.fname): len(_lacking(Path(entry.fname), missing)) for entry in by_weight}
    best = min(left, key=lambda file: left[file], default=font_file())
    if left.get(best, 1):
        shown = "".join(dict.fromkeys(_lacking(best, missing)))[:20]
        warnings.warn(
            f"No installed font has {shown!r}, which are drawn as boxes. Install one, such as Debian's fonts-noto-cjk for Chinese, Japanese and "
            "Korean, and run again.",
            UserWarning,
            stacklevel=3,
        )
    return best if left.get(best, len(missing)) < len(missing) else font_file()


def _weight(weight: str | int) -> int:
    """A font's weight as a number; matplotlib knows some by name."""
    return weight if isinstance(weight, int) else {"light": 300, "bold": 700, "heavy": 800, "black": 900}.get(weight, 400)


def _lacking(file: Path, text: str) -> str:
    """The characters of a text that a font does not have, white space left out."""
    known = _characters(file)
    return "".join(character for character in text if ord(character) not in known and not character.isspace())


@cache
def _characters(file: Path) -> frozenset[int]:
    """The code points of a font's characters; none of a file that is no font any more."""
    try:
        return frozenset(get_font(str(file)).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
