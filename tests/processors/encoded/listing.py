"""A list of families, and image processors as small as their towers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import transformers as hf

from tests.processors.offline import TILE, Pair

Build = Callable[[str], Pair]
ENCODED: dict[str, Callable[[], Pair]] = {}
"""Family -> its tiny model and its processor."""

SQUARE = {"height": TILE, "width": TILE}


def encoded(*names: str) -> Callable[[Build], Build]:
    """List a builder under these families' names, which it gets."""

    def listed(build: Build) -> Build:
        ENCODED.update({name: partial(build, name) for name in names})
        return build

    return listed


def square(kind: str = "CLIP", edge: int = TILE) -> Any:
    """An image processor that shows the whole image as a square."""
    size = {"height": edge, "width": edge}
    return getattr(hf, f"{kind}ImageProcessor")(size=size, **({"crop_size": size} if kind == "CLIP" else {}))
