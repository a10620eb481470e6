"""What each position of the sequence is: the image, the question, the answer, its sentences and words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from probe.errors import AmbiguousWord, InvalidRead, SpanNotFound
from probe.tokens.integers import as_int, as_ints
from probe.tokens.layout import ImageLayout
from probe.tokens.offsets import TokenText, text_of

_BUILT_IN = re.compile(r"image|image \d+|prompt|question|answer|end")
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
        positions = as_ints(self.positions)
        if positions is None:
            raise InvalidRead(
                f"Span({shortened(repr(self.positions), 120)}): positions are integers, in a tuple, a range, a list or an array."
            )
        object.__setattr__(self, "positions", positions)

    def __len__(self) -> int:
        return len(self.positions)


def image_spans(images: Sequence[Sequence[int]]) -> dict[str, Span]:
    """The names of the images' tokens: `image` for all of them, `image 0`, `image 1`... for each; none without images."""
    if not images:
        return {}
    together = Span(tuple(position for image in images for position in image), "image")
    return {"image": together, **{f"image {i}": Span(tuple(image), f"image {i}") for i, image in enumerate(images)}}


@dataclass(frozen=True)
class TokenMap:
    """Names and text for every position of one sequence.

    Words and sentences are found by character offsets in the text that the tokens themselves decode to, never by tokenising again. It
    holds no model and can be pickled; two are equal where their ids, images, layouts, spans and family are.

    Attributes:
        ids: the token ids, padding left out.
        images: for each image, the positions of its tokens.
        layouts: for each image, where its tokens lie; None where the family does not say.
        spans: the named spans. `image` is all tokens of all images, `image 0` those of the first.
        special: ids that are no text (end of sequence, padding, the image token).
        decode: ids to text; None for a model without a processor, whose words cannot be found.
        family: the model family, for messages.
    """

    ids: tuple[int, ...]
    images: tuple[tuple[int, ...], ...]
    layouts: tuple[ImageLayout | None, ...]
    spans: Mapping[str, Span]
    special: frozenset[int] = frozenset()
    decode: Callable[[Sequence[int]], str] | None = field(default=None, compare=False)
    family: str = "this model"
    _texts: dict[tuple[int, ...], TokenText] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"TokenMap({self.family}, {self.summary()})"

    def summary(self, most: int = 8) -> str:
        """How many tokens there are, and in which spans: `629 tokens: prompt 617, image 576`."""
        named = [f"{name} {len(span)}" for name, span in self.spans.items()]
        more = [f"{len(named) - most} more"] if len(named) > most else []
        return f"{len(self)} tokens: {', '.join([*named[:most], *more]) or 'no spans'}"

    def span(self, name: str) -> Span:
        """The span of this name.

        Raises:
            SpanNotFound: the message lists the names there are.
        """
        if name not in self.spans:
            raise SpanNotFound(f"No span {name!r}. Spans here: {', '.join(self.spans)}. Name your own with with_spans().")
        return self.spans[name]

    def with_spans(self, spans: Mapping[str, Span]) -> TokenMap:
        """The same map with more names; a name of your own may be given again.

        Raises:
            InvalidRead: a name that `encode` and `with_answer` give: image, image 0..., prompt, question, answer, end.
            SpanNotFound: a span that reaches beyond the sequence.
        """
        for name, span in spans.items():
            if _BUILT_IN.fullmatch(name):
                raise InvalidRead(f"The span {name!r} is named by encode() and with_answer(); with_spans() takes other names. Choose one.")
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
        number = 0 if index is None else as_int(index)
        if number is None:
            raise SpanNotFound(f"index={index!r}: which occurrence of {word!r}, an integer from 0 to {len(found) - 1}, or negative.")
        try:
            start, stop = found[number]
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
        number = as_int(index)
        if number is None:
            raise SpanNotFound(f"Sentence {index!r} was asked for: an integer from 0 to {len(ends) - 1} is a sentence, or a negative one.")
        try:
            start, stop = list(zip(starts, ends, strict=False))[number]
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
        wanted = set(span.positions)
        inside = [(a, b) for p, a, b in self._characters(within) if p in wanted]
        if not inside:
            raise SpanNotFound(f"The span {span.name!r} (positions {_range(span.positions)}) has no text in {_named(within)}.")
        return min(a for a, _ in inside), max(b for _, b in inside)

    def characters(self, start: int, stop: int, within: str | Span | None = "answer") -> Span:
        """The tokens that share a character with [start, stop) of a span's text."""
        return Span(tuple(p for p, a, b in self._characters(within) if a < stop and b > start))

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
        position = as_int(place)
        if position is None or not -len(self) <= position < len(self):
            raise SpanNotFound(f"Position {place} was asked for, the sequence has {len(self)} tokens (0 to {len(self) - 1}, or negative).")
        return (position % len(self),)

    def check_layouts(self) -> None:
        """The law of layout for every image whose layout the family declares (GridMismatch)."""
        for positions, layout in zip(self.images, self.layouts, strict=True):
            if layout is not None:
                layout.check(len(positions), self.family)

    def layout(self, positions: Sequence[int]) -> tuple[ImageLayout | None, str]:
        """The layout of the image whose tokens these positions are, in order; without one, the reason why they cannot be folded."""
        for image, layout in zip(self.images, self.layouts, strict=True):
            if tuple(positions) == image:
                return layout, "" if layout else self._no_layout()
        return None, "these positions are not the tokens of one whole image, in order"

    def _no_layout(self) -> str:
        if self.decode is None:
            return "a plain encoding does not say which image its tokens are of; model.encode() keeps image and tokens together"
        return f"{self.family} does not say where its image tokens lie on the picture"

    def _check(self, span: Span, name: str) -> None:
        if any(not 0 <= p < len(self) for p in span.positions):
            raise SpanNotFound(
                f"The span {name!r} reaches to position {max(span.positions)}, the sequence has {len(self)} tokens. Is it of another text?"
            )

    def _positions(self, within: str | Span | None) -> tuple[int, ...]:
        if within is None:
            return tuple(range(len(self)))
        return self.resolve(within)

    def _characters(self, within: str | Span | None) -> list[tuple[int, int, int]]:
        """(position, start, stop) of every token of a span that holds characters of its text."""
        where = self._decoded(within)
        return [(p, a, b) for p, a, b in zip(self._spoken(within), where.starts, where.stops, strict=True) if a < b]

    def _spoken(self, within: str | Span | None) -> tuple[int, ...]:
        return tuple(p for p in self._positions(within) if self.ids[p] not in self.special)

    def _decoded(self, within: str | Span | None) -> TokenText:
        positions = self._spoken(within)
        if positions not in self._texts:
            if self.decode is None:
                raise SpanNotFound(
                    "This model was loaded without a processor, so its tokens have no text. Address them by position or as 'image'."
                )
            self._texts[positions] = text_of([self.ids[p] for p in positions], self.decode)
        return self._texts[positions]


def _named(within: str | Span | None) -> str:
    if isinstance(within, Span):
        return f"the span {within.name!r}" if within.name else "the span"
    return f"the {within}" if within else "the text"


def _short(text: str, limit: int = 120) -> str:
    return repr(shortened(text, limit))


def shortened(text: str, limit: int) -> str:
    """The text, or its first characters with "…" behind them."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _range(positions: Sequence[int]) -> str:
    return f"{positions[0]} to {positions[-1]}" if positions else "none"
