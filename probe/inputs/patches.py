"""The positions of a vision encoder's input, which has no text: the patches of its image."""

from __future__ import annotations

from collections.abc import Sequence

from probe.errors import TemplateError
from probe.tokens.layout import ImageLayout
from probe.tokens.spans import TokenMap, image_spans

NO_TOKEN = -1
"""The id of positions that are in no `input_ids`, or whose ids mean nothing there: those that the model itself makes of an image."""


def patch_map(family: str, layout: ImageLayout | None) -> TokenMap:
    """The patches of one image, `image`, in the tower's own order.

    Args:
        layout: where they lie; None: not known, and no position has a name.
    """
    patches = tuple(range(layout.tokens)) if layout else ()
    images = (patches,) if layout else ()
    spans = image_spans(images)
    return TokenMap((NO_TOKEN,) * len(patches), images, (layout,) * len(images), spans, frozenset({NO_TOKEN}), _no_text, family)


def _no_text(ids: Sequence[int]) -> str:
    return ""


def no_answer(prompt: str, answer: str) -> tuple[int, ...]:
    """The ids of an answer to an image alone.

    Raises:
        TemplateError: a vision encoder answers nothing.
    """
    raise TemplateError(f"A vision encoder reads and writes no text, an answer was given: {answer[:80]!r}. Run the encoding as it is.")
