"""`python -m fseg.stickers.fetch`: fetch the artists' sets with npm and render them as sheets of sprites."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Annotated, TypedDict

import numpy as np
import typer
from PIL import Image

from fseg.stickers.drawings import ARTISTS, CELLS, Artist
from fseg.stickers.sprites import CELL, COLUMNS, sheet_folder


class Icon(TypedDict, total=False):
    """A drawing in an Iconify collection."""

    body: str
    width: int
    height: int
    left: int
    top: int


class Icons(TypedDict, total=False):
    """An Iconify collection, as far as it is read."""

    icons: dict[str, Icon]
    aliases: dict[str, dict[str, str]]
    width: int
    height: int


_LEFT_OUT = {("fxemoji", "sailboat"), ("fxemoji", "ship"), ("fxemoji", "desktop-computer")}
"""Drawings that show something else: two framed pictures, a computer without a screen."""

_OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "bottle-with-popping-cork": ("bottlewithpoppingcork",),
    "ewe": ("sheep",),
    "mantelpiece-clock": ("manltepiececlock",),
    "one-oclock": ("clock1oclock",),
    "seven-thirty": ("clock7thirty", "clock6thirty"),
    "ten-oclock": ("clock3oclock",),
    "couch-and-lamp": ("couch", "sofa"),
    "red-apple": ("apple",),
}
"""Names that some sets give these drawings."""


def _svg(icons: Icons, drawing: str) -> str | None:
    """The SVG of a drawing in an Iconify collection, None if the set has none."""
    for name in (drawing, drawing.replace("-", ""), *_OTHER_NAMES.get(drawing, ())):
        found = icons["icons"].get(icons.get("aliases", {}).get(name, {}).get("parent", name))
        if found is not None:
            width = found.get("width") or icons.get("width") or 16
            height = found.get("height") or icons.get("height") or 16
            left, top = found.get("left", 0), found.get("top", 0)
            return (
                f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="{left} {top} {width} {height}" width="{CELL}" height="{CELL}">{found["body"]}</svg>'
            )
    return None


def _sprite(svg: str) -> Image.Image | None:
    """The drawing, cropped to what can be seen and enlarged to a cell."""
    import resvg_py

    def render(side: int) -> Image.Image:
        return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side)))).convert("RGBA")

    box = render(512).getchannel("A").point(lambda value: 255 if value >= 16 else 0).getbbox()
    if box is None:
        return None
    longer = max(box[2] - box[0], box[3] - box[1])
    side = 4 * CELL
    large = render(round(512 * side / longer))
    ratio = large.width / 512
    left, top, right, bottom = (round(edge * ratio) for edge in box)
    crop = large.crop((left, top, right, bottom)).convert("RGBa")
    size = (max(1, round(crop.width / 4)), max(1, round(crop.height / 4)))
    return crop.resize(size, Image.Resampling.BOX).convert("RGBA")


def _icons(artist: Artist, folder: Path) -> Icons:
    """An artist's collection, downloaded by npm into `folder`."""
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), artist.package]
    file = folder / subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    with tarfile.open(file) as archive:
        member = archive.extractfile("package/icons.json")
        assert member is not None, f"{file} has no icons.json"
        icons: Icons = json.loads(member.read())
        return icons


def _reduced(sheet: Image.Image) -> Image.Image:
    """The same with 32 levels of each colour and 16 of alpha, which a PNG stores in two thirds of the bytes."""
    values = np.asarray(sheet).astype(float)
    alpha = np.round(values[..., 3:] / 17) * 17
    colours = np.where(alpha > 0, np.round(np.round(values[..., :3] * 31 / 255) * 255 / 31), 0)
    return Image.fromarray(np.concatenate([colours, alpha], -1).astype(np.uint8))


def sheet(name: str, icons: Icons) -> Image.Image:
    """All drawings of an artist in a grid of cells, transparent where the artist has none."""
    rows = -(-len(CELLS) // COLUMNS)
    canvas = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for number, (_, drawing) in enumerate(CELLS):
        svg = None if (name, drawing) in _LEFT_OUT else _svg(icons, drawing)
        sprite = None if svg is None else _sprite(svg)
        if sprite is not None:
            y, x = divmod(number, COLUMNS)
            canvas.paste(sprite, (x * CELL + (CELL - sprite.width) // 2, y * CELL + (CELL - sprite.height) // 2))
    return _reduced(canvas)


def fetch(folder: Path, names: tuple[str, ...] = tuple(ARTISTS)) -> list[Path]:
    """Write `folder`/ARTIST.png for each artist."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in names:
        with tempfile.TemporaryDirectory() as temporary:
            image = sheet(name, _icons(ARTISTS[name], Path(temporary)))
        part = folder / f".{name}.part"
        image.save(part, format="PNG", optimize=True)
        written.append(part.replace(folder / f"{name}.png"))
    return written


def main(
    folder: Annotated[Path | None, typer.Argument(help="Where the sheets go; by default where scenes look for them.")] = None,
) -> None:
    """Fetch the sets of all artists with npm (about 23 MB) and render them."""
    if shutil.which("npm") is None:
        raise typer.BadParameter("npm, which fetches the sets, is not on the PATH.")
    if importlib.util.find_spec("resvg_py") is None:
        raise typer.BadParameter("resvg-py, which renders the drawings, is not installed: pip install 'fseg-llava[train]'.")
    for file in fetch(folder or sheet_folder()):
        typer.echo(file)


if __name__ == "__main__":
    typer.run(main)
