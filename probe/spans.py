"""What each position of the sequence is: the image, the question, the answer, its sentences and words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from probe.errors import AmbiguousWord, SpanNotFound
from probe.layout import ImageLayout

_INCOMPLETE = "\ufffd"
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")


@dataclass(frozen=True)
class Span:
    """Positions in the sequence, in order.

    Attributes:
        positions: counted from 0 at the first real token (padding is not counted).
        name: what it is, for messages.
    """

    positions: tuple[int, ...]
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", tuple(self.positions))

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class _Decoded:
    """The text of some positions, and the characters [start, stop) of it that each position gave."""

    text: str
    positions: tuple[int, ...]
    starts: tuple[int, ...]
    stops: tuple[int, ...]


@dataclass(frozen=True)
class TokenMap:
    """Names and text for every position of one sequence.

    Words and sentences are found by character offsets in the text that the tokens themselves decode to, never by tokenising again.

    Attributes:
        ids: the token ids, padding left out.
        images: for each image, the positions of its tokens.
        layouts: for each image, where its tokens lie; None where the family does not say.
        spans: the named spans. `image` is all tokens of all images.
        special: ids that are no text (end of sequence, padding, the image token).
        decode: ids to text; None for a model without a processor, whose words cannot be found.
        family: the model family, for messages.
    """

    ids: tuple[int, ...]
    images: tuple[tuple[int, ...], ...]
    layouts: tuple[ImageLayout | None, ...]
    spans: Mapping[str, Span]
    special: frozenset[int] = frozenset()
    decode: Callable[[Sequence[int]], str] | None = None
    family: str = "this model"
    _texts: dict[tuple[int, ...], _Decoded] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.ids)

    def span(self, name: str) -> Span:
        """The span of this name.

        Raises:
            SpanNotFound: the message lists the names there are.
        """
        if name not in self.spans:
            raise SpanNotFound(f"No span {name!r}. Spans here: {', '.join(self.spans)}. Name your own with with_spans().")
        return self.spans[name]

    def with_spans(self, spans: Mapping[str, Span]) -> TokenMap:
        """The same map with more names."""
        for name, span in spans.items():
            self._check(span, name)
        return replace(self, spans={**self.spans, **{name: Span(span.positions, name) for name, span in spans.items()}})

    def text(self, within: str | Span | None = None) -> str:
        """The text of a span, special tokens and image tokens left out, surrounding white space stripped; None: of everything."""
        return self._decoded(within).text

    def word(self, word: str, within: str | Span = "answer", index: int | None = None) -> Span:
        """The tokens of a word, or of a name of several words, in the text of a span.

        Whole words only ("cat" is not in "cattle"), case-insensitive; a token that shares a character with the word belongs to it.

        Args:
            index: which occurrence, from 0; negative ones count from the last. None: the only one.

        Raises:
            SpanNotFound: the word is not there.
            AmbiguousWord: it is there more than once and no index says which; the message gives the places.
        """
        where = self._decoded(within)
        found = self.find(word, within)
        if not found:
            raise SpanNotFound(f"No word {word!r} in {_named(within)} {_short(where.text)}. Spans here: {', '.join(self.spans)}.")
        if index is None and len(found) > 1:
            places = ", ".join(f"{start}-{stop}" for start, stop in found)
            raise AmbiguousWord(
                f"{word!r} occurs {len(found)} times in {_named(within)} (characters {places}). Pass index=0 to index={len(found) - 1}."
            )
        try:
            start, stop = found[index or 0]
        except IndexError:
            raise SpanNotFound(f"{word!r} occurs {len(found)} times in {_named(within)}, occurrence {index} was asked for.") from None
        return replace(self.characters(start, stop, within), name=word)

    def find(self, word: str, within: str | Span = "answer") -> list[tuple[int, int]]:
        """Every place of a word in the text of a span, as characters (start, stop)."""
        name = word.strip()
        if not name:
            raise SpanNotFound("An empty word was asked for. Name a word of the text.")
        pattern = r"\s+".join(re.escape(part) for part in name.split())
        # A boundary is only asked for where the name itself begins or ends with a letter: "c++" ends with none.
        pattern = (r"(?<!\w)" if re.match(r"\w", name) else "") + pattern + (r"(?!\w)" if re.search(r"\w$", name) else "")
        return [match.span() for match in re.finditer(pattern, self._decoded(within).text, re.IGNORECASE)]

    def sentence(self, index: int, within: str | Span = "answer") -> Span:
        """The tokens of the index-th sentence, from 0 (negative: from the last). A sentence ends with ".", "!" or "?" before a space or the end.

        Raises:
            SpanNotFound: there are fewer sentences.
        """
        text = self._decoded(within).text
        ends = [match.end() for match in _SENTENCE_END.finditer(text)]
        if text[ends[-1] if ends else 0 :].strip():
            ends.append(len(text))
        starts = [0, *ends[:-1]]
        try:
            start, stop = list(zip(starts, ends, strict=False))[index]
        except IndexError:
            raise SpanNotFound(
                f"Sentence {index} was asked for, {_named(within)} {_short(text)} has {len(ends)}, counted from 0."
            ) from None
        start += len(text[start:stop]) - len(text[start:stop].lstrip())
        return replace(self.characters(start, stop, within), name=f"sentence {index}")

    def after(self, span: Span, within: str | Span = "answer") -> Span:
        """What follows a span inside another one; empty where nothing does."""
        last = max(span.positions, default=-1)
        return Span(tuple(p for p in self._positions(within) if p > last), f"after {span.name}".strip())

    def offsets(self, span: Span, within: str | Span = "answer") -> tuple[int, int]:
        """The characters (start, stop) of a span in the text of another, `t.text(within)`."""
        where = self._decoded(within)
        inside = [(a, b) for p, a, b in zip(where.positions, where.starts, where.stops, strict=True) if p in set(span.positions)]
        if not inside:
            raise SpanNotFound(f"The span {span.name!r} (positions {_range(span.positions)}) has no text in {_named(within)}.")
        return min(a for a, _ in inside), max(b for _, b in inside)

    def characters(self, start: int, stop: int, within: str | Span | None = "answer") -> Span:
        """The tokens that share a character with [start, stop) of a span's text."""
        where = self._decoded(within)
        return Span(tuple(p for p, a, b in zip(where.positions, where.starts, where.stops, strict=True) if a < stop and b > start))

    def resolve(self, place: str | int | Span) -> tuple[int, ...]:
        """The positions of a place; negative numbers count from the sequence's real end.

        Raises:
            SpanNotFound: no such span, or a position beyond the sequence.
        """
        if isinstance(place, str):
            if place == "image":
                self.check_layouts()
            return self.span(place).positions
        if isinstance(place, Span):
            self._check(place, place.name)
            return place.positions
        if not -len(self) <= place < len(self):
            raise SpanNotFound(f"Position {place} was asked for, the sequence has {len(self)} tokens (0 to {len(self) - 1}, or negative).")
        return (place % len(self),)

    def check_layouts(self) -> None:
        """The law of layout for every image whose layout the family declares (GridMismatch)."""
        for positions, layout in zip(self.images, self.layouts, strict=True):
            if layout is not None:
                layout.check(len(positions), self.family)

    def layout(self, positions: Sequence[int]) -> tuple[ImageLayout | None, str]:
        """The layout of the image whose tokens these positions are, in order; without one, the reason why they cannot be folded."""
        for image, layout in zip(self.images, self.layouts, strict=True):
            if tuple(positions) == image:
                return layout, "" if layout else f"{self.family} does not say where its image tokens lie on the picture"
        return None, "these positions are not the tokens of one whole image, in order"

    def _check(self, span: Span, name: str) -> None:
        if any(not 0 <= p < len(self) for p in span.positions):
            raise SpanNotFound(
                f"The span {name!r} reaches to position {max(span.positions)}, the sequence has {len(self)} tokens. Is it of another text?"
            )

    def _positions(self, within: str | Span | None) -> tuple[int, ...]:
        if within is None:
            return tuple(range(len(self)))
        return self.resolve(within)

    def _decoded(self, within: str | Span | None) -> _Decoded:
        positions = tuple(p for p in self._positions(within) if self.ids[p] not in self.special)
        if positions not in self._texts:
            self._texts[positions] = self._decode(positions)
        return self._texts[positions]

    def _decode(self, positions: tuple[int, ...]) -> _Decoded:
        if self.decode is None:
            raise SpanNotFound(
                "This model was loaded without a processor, so its tokens have no text. Address them by position or as 'image'."
            )
        ids = [self.ids[p] for p in positions]
        full = self.decode(ids)
        prefixes = [self.decode(ids[:k]) for k in range(len(ids))] + [full]
        reach = [_agreement(prefix, full) for prefix in prefixes]
        margin = len(full) - len(full.lstrip())
        text = full.strip()
        edges = [min(max(r - margin, 0), len(text)) for r in reach]
        stops = edges[1:]
        for k in range(len(ids) - 2, -1, -1):
            # A token that ends in the middle of a character shares that character with the tokens that complete it.
            if prefixes[k + 1].endswith(_INCOMPLETE):
                stops[k] = max(stops[k], edges[k] + 1)
        return _Decoded(text, positions, tuple(edges[:-1]), tuple(stops))


def _agreement(part: str, whole: str) -> int:
    """How many leading characters two texts share."""
    for k, (a, b) in enumerate(zip(part, whole, strict=False)):
        if a != b:
            return k
    return min(len(part), len(whole))


def _named(within: str | Span | None) -> str:
    if isinstance(within, Span):
        return f"the span {within.name!r}" if within.name else "the span"
    return f"the {within}" if within else "the text"


def _short(text: str, limit: int = 120) -> str:
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def _range(positions: Sequence[int]) -> str:
    return f"{positions[0]} to {positions[-1]}" if positions else "none"
