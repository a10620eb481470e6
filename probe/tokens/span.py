"""Span: positions in a sequence, under a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from probe.errors import InvalidRead
from probe.tokens.integers import as_ints


@dataclass(frozen=True)
class Span:
    """Positions in the sequence, in order.

    Attributes:
        positions: counted from 0 at the first real token (padding is not counted).
        name: for messages.

    Example:
        >>> probe.Span(range(3), "first")
        Span(positions=(0, 1, 2), name='first')
    """

    positions: tuple[int, ...]
    name: str = ""

    def __post_init__(self) -> None:
        positions = as_ints(self.positions)
        if positions is None:
            raise InvalidRead(
                f"Span({shortened(repr(self.positions), 120)}): positions are integers, in a tuple, a range, a list or an array."
            )
        object.__setattr__(self, "positions", positions)

    def __len__(self) -> int:
        return len(self.positions)


def image_spans(images: Sequence[Sequence[int]]) -> dict[str, Span]:
    """The spans of the images' tokens: `image` for all of them, `image 0`, `image 1`... for each; none without images."""
    if not images:
        return {}
    together = Span(tuple(position for image in images for position in image), "image")
    return {"image": together, **{f"image {i}": Span(tuple(image), f"image {i}") for i, image in enumerate(images)}}


def shortened(text: str, limit: int) -> str:
    """The text, or if it is longer than `limit` its first characters and "…"."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
