"""Where the weights of the embedded worlds are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Weights:
    """The weights that the package holds for a world.

    Attributes:
        world: its name, which is also the name by which `fseg` loads its LLaVA and its SAM.

    >>> GLYPHS.llava_folder().name, GLYPHS.sam_file().name
    ('llava', 'sam.safetensors')
    """

    world: str

    @property
    def folder(self) -> Path:
        """The folder of all weights, and of their model card."""
        return _PACKAGE / self.world / "weights"

    def llava_folder(self) -> Path:
        """The folder of the tiny LLaVA, in the Hugging Face format."""
        return self.folder / "llava"

    def qwen_folder(self) -> Path:
        """The folder of the tiny Qwen2-VL, in the Hugging Face format; the glyph world has none."""
        return self.folder / "qwen"

    def sam_file(self) -> Path:
        """The file of the tiny SAM: segment-anything's weights, as safetensors."""
        return self.folder / "sam.safetensors"


GLYPHS = Weights("glyphs")
STICKERS = Weights("stickers")
WORLDS = (GLYPHS, STICKERS)


def embedded_backbones() -> dict[str, Path]:
    """The folders of the embedded backbones, by the names under which `fseg` loads them.

    >>> list(embedded_backbones())
    ['glyphs', 'stickers', 'stickers-dynamic']
    """
    return {**{each.world: each.llava_folder() for each in WORLDS}, "stickers-dynamic": STICKERS.qwen_folder()}


def embedded_sams() -> dict[str, Path]:
    """The files of the embedded SAMs, by the names of their worlds."""
    return {each.world: each.sam_file() for each in WORLDS}
