"""The sprites of the artists: one sheet of cells for each, shipped with the package or fetched."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from fseg.errors import InvalidOption
from fseg.stickers.drawings import ARTISTS, CELLS, CLASSES

CELL, COLUMNS = 128, 12
"""Side of a cell in pixels, cells in a row of a sheet."""
FETCH = "python -m fseg.stickers.fetch"
"""The command that fetches the sheets of all artists."""
_SHIPPED = Path(__file__).parent / "sheets"
_LEVELS = (128, 64, 32)


def sheet_folder() -> Path:
    """Where fetched sheets are: $FSEG_STICKERS, or else fseg/stickers in the user's cache.

    >>> import os
    >>> os.environ["FSEG_STICKERS"] = "/data/stickers"
    >>> sheet_folder().as_posix()
    '/data/stickers'
    >>> del os.environ["FSEG_STICKERS"]
    """
    chosen = os.environ.get("FSEG_STICKERS")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fseg" / "stickers"


def sheet_file(artist: str) -> Path:
    """The sheet of an artist.

    Raises:
        InvalidOption: there is no such artist, or the sheet is not shipped and was not fetched.

    >>> sheet_file("noto").name
    'noto.png'
    """
    if artist not in ARTISTS:
        raise InvalidOption(f"there is no artist {artist!r}; there are {', '.join(ARTISTS)}.")
    file = (_SHIPPED if ARTISTS[artist].shipped else sheet_folder()) / f"{artist}.png"
    if not file.exists():
        raise InvalidOption(
            f"the drawings of {artist!r} are not in the package and not in {file.parent}. `{FETCH}` fetches them with npm; "
            f"without a network use {', '.join(name for name, each in ARTISTS.items() if each.shipped)}."
        )
    return file


@cache
def _drawn(file: Path) -> dict[str, tuple[Image.Image, ...]]:
    with Image.open(file) as opened:
        sheet = opened.convert("RGBA")
    found: dict[str, list[Image.Image]] = {name: [] for name in CLASSES}
    for number, (name, _) in enumerate(CELLS):
        y, x = divmod(number, COLUMNS)
        cell = sheet.crop((x * CELL, y * CELL, (x + 1) * CELL, (y + 1) * CELL))
        box = cell.getchannel("A").getbbox()
        if box is not None:
            found[name].append(cell.crop(box))
    return {name: tuple(each) for name, each in found.items() if each}


def sprites(artist: str) -> dict[str, tuple[Image.Image, ...]]:
    """Class name -> the artist's drawings of it: RGBA, cropped, the longer side 128 pixels. Classes without a drawing are left out.

    >>> len(sprites("noto")["cat"])
    5
    """
    return _drawn(sheet_file(artist))


@cache
def _level(file: Path, name: str, number: int, side: int) -> Image.Image:
    sprite = _drawn(file)[name][number]
    if side == CELL:
        return sprite
    size = (max(1, round(sprite.width * side / CELL)), max(1, round(sprite.height * side / CELL)))
    return sprite.convert("RGBa").resize(size, Image.Resampling.BOX).convert("RGBA")


def level(artist: str, name: str, number: int, length: float) -> Image.Image:
    """A drawing at the smallest stored scale that is at least `length` pixels long, or else at the largest."""
    side = min((each for each in _LEVELS if each >= length), default=CELL)
    return _level(sheet_file(artist), name, number, side)


def posed(sprite: Image.Image, length: float, angle: float, mirror: bool, stretch: float = 1.0) -> Image.Image:
    """A sprite whose longer side has `length` pixels, optionally mirrored and narrowed, then rotated by `angle` degrees.

    Returns:
        Mode RGBa (colours multiplied by alpha), cropped to what can be seen.
    """
    scale = length / max(sprite.size)
    turn = np.deg2rad(angle)
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    across, down = scale * stretch, scale
    w, h = sprite.width * across, sprite.height * down
    width, height = int(abs(w * cos) + abs(h * sin)) + 3, int(abs(w * sin) + abs(h * cos)) + 3
    flip = -1.0 if mirror else 1.0
    # from a pixel of the result to one of the sprite: centre, rotate back, mirror, scale back
    a, b = flip * cos / across, -flip * sin / across
    d, e = sin / down, cos / down
    x, y = width / 2, height / 2
    data = (a, b, sprite.width / 2 - a * x - b * y, d, e, sprite.height / 2 - d * x - e * y)
    shape = sprite.convert("RGBa").transform((width, height), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
    return shape.crop(shape.getchannel("a").getbbox())
