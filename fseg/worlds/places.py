"""Words for the size and the position of a thing in an image."""

from __future__ import annotations


def size_word(area: float) -> str:
    """A word for the size, from the share of the image that is covered.

    >>> size_word(0.01), size_word(0.2)
    ('small', 'large')
    """
    return "small" if area < 0.025 else "medium" if area < 0.08 else "large"


def position_phrase(x: float, y: float) -> str:
    """A phrase for the position, from the centre of the bounding box as shares of width and height.

    >>> position_phrase(0.1, 0.5), position_phrase(0.9, 0.9)
    ('on the left', 'at the bottom right')
    """
    row = "top" if y < 0.38 else "bottom" if y > 0.62 else ""
    col = "left" if x < 0.38 else "right" if x > 0.62 else ""
    if not row and not col:
        return "in the centre"
    if not row:
        return f"on the {col}"
    return f"at the {row} {col}" if col else f"at the {row}"
