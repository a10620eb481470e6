"""What a TokenMap shows in a notebook: its text, each span on a colour, its images in brackets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from probe.notebook import Html, coloured
from probe.tokens.span import Span

LIMIT = 2000
"""Tokens of text that are shown."""


def coloured_text(text: str, characters: Iterable[tuple[int, int, int]], spans: Mapping[str, Span]) -> Html:
    """The text with its spans coloured.

    Args:
        characters: (position, start, stop) of every token of the text.
        spans: of a token in several, the smallest has it; the prompt, which is nearly everything, has no colour.
    """
    name_of = _smallest({name: span for name, span in spans.items() if name != "prompt"})
    words = {position: (start, stop) for position, start, stop in characters}
    visual = {position for name, span in spans.items() if name in ("image", "video") for position in span.positions}
    positions = sorted([*words, *visual - words.keys()])
    pieces = list(_pieces(text, positions[:LIMIT] if len(words) > LIMIT else positions, words, name_of))
    if len(words) > LIMIT:
        pieces.append((f" ... and {len(positions) - LIMIT} more tokens", ""))
    used = {name for _, name in pieces}
    return coloured(pieces, [name for name in spans if name in used])


def _pieces(text: str, positions: list[int], words: Mapping[int, tuple[int, int]], name_of: Mapping[int, str]) -> Iterator[tuple[str, str]]:
    """(text, name of its span) for runs of tokens of one span; a run without text is one piece in brackets."""
    done = 0  # tokens may share a character, which is shown once
    for (name, is_text), run in groupby(positions, lambda position: (name_of.get(position, ""), position in words)):
        members = list(run)
        if not is_text:
            yield f"[{name}: {len(members)} tokens]", name
            continue
        stop = max(words[position][1] for position in members)
        yield text[done:stop], name
        done = max(done, stop)


def _smallest(spans: Mapping[str, Span]) -> dict[int, str]:
    """Position -> name of the smallest span that holds it, of equal ones the last."""
    ordered = sorted(spans.items(), key=lambda item: len(item[1]), reverse=True)
    return {position: name for name, span in ordered for position in span.positions}
