"""Where the weights of the embedded worlds are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Weights:
    """The weights that the package holds for a world.

    Attributes:
        world: its name, which is also the name by which `fseg` loads its models.

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

    def sam_file(self) -> Path:
        """The file of the tiny SAM: segment-anything's weights, as safetensors."""
        return self.folder / "sam.safetensors"


GLYPHS = Weights("glyphs")
STICKERS = Weights("stickers")
EMBEDDED = {each.world: each for each in (GLYPHS, STICKERS)}
"""The weights by the name of their world."""
