"""How images reach the vision tower: by the checkpoint's own processor, or resized directly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from probe.backbones import Backbone
from probe.backbones.base import no_direct_resize
from probe.errors import LoadError


@dataclass(frozen=True)
class Preparation:
    """How images reach the tower: as the checkpoint's processor prepares them, or resized directly to the tower's input."""

    resize: Literal["processor", "stretch"] = "processor"
    tiles: bool = True

    def __post_init__(self) -> None:
        if self.resize not in ("processor", "stretch"):
            raise LoadError(
                f'resize={self.resize!r}: "processor" (what the checkpoint does) or "stretch" (directly to the tower\'s input).'
            )

    def direct(self, backbone: Backbone, family: str) -> bool:
        """Whether we resize, instead of the processor.

        Raises:
            LoadError: tiles of a picture that is resized directly.
            NoDirectResize: the family does not say how its image tokens lie then.
        """
        if self.resize == "stretch" and self.tiles and backbone.tiled:
            raise LoadError(
                'resize="stretch" shows the whole picture as one square, and this family would cut tiles of it. Load it with tiles=False as well.'
            )
        direct = self.resize == "stretch" or (backbone.tiled and not self.tiles)
        if direct and not backbone.resizes_directly:
            raise no_direct_resize(family)
        return direct
