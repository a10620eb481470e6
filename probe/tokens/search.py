"""Words and sentences in a text, as characters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from probe.errors import SpanNotFound
from probe.tokens.integers import as_int

T = TypeVar("T")

_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")


def find_words(text: str, name: str) -> list[tuple[int, int]]:
    """Every occurrence of a word, or of a name of several words, as characters (start, stop): whole words only, case-insensitive.

    Example:
        >>> from probe.tokens.search import find_words
        >>> find_words("Cattle, a cat and a CAT.", "cat")
        [(10, 13), (20, 23)]
    """
    pattern = r"\s+".join(re.escape(part) for part in name.split())
    # A word boundary is required only where the name itself begins or ends with a letter or digit: "c++" ends with neither.
    pattern = (r"(?<!\w)" if re.match(r"\s*\w", name) else "") + pattern + (r"(?!\w)" if re.search(r"\w\s*$", name) else "")
    return [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)]


def find_sentences(text: str) -> list[tuple[int, int]]:
    """The sentences of a text, as characters (start, stop). A sentence ends with ".", "!" or "?" before a space or the end of the text.

    Example:
        >>> from probe.tokens.search import find_sentences
        >>> find_sentences("It is 3.5 m. Is it? So")
        [(0, 12), (13, 19), (20, 22)]
    """
    stops = [match.end() for match in _SENTENCE_END.finditer(text)]
    if text[stops[-1] if stops else 0 :].strip():
        stops.append(len(text))
    starts = [0, *stops[:-1]] if stops else []
    return [(stop - len(text[start:stop].lstrip()), stop) for start, stop in zip(starts, stops, strict=True)]


def item_at(items: Sequence[T], index: int, not_an_integer: str, out_of_range: str) -> T:
    """One item by its index, or SpanNotFound with one of these messages."""
    number = as_int(index)
    if number is None:
        raise SpanNotFound(not_an_integer)
    try:
        return items[number]
    except IndexError:
        raise SpanNotFound(out_of_range) from None
