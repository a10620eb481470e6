"""What each position of the sequence is: the image, the question, the answer, its sentences and words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from probe.errors import AmbiguousWord, InvalidRead, SpanNotFound
from probe.notebook import Html, section
from probe.tokens.integers import as_int
from probe.tokens.layout import ImageLayout
from probe.tokens.notebook import coloured_text
from probe.tokens.offsets import TokenText, text_of
from probe.tokens.placed import Placed
from probe.tokens.search import find_sentences, find_words, item_at
from probe.tokens.span import Span, image_spans, shortened, video_spans
from probe.tokens.video import VideoLayout

__all__ = ["Span", "TokenMap", "image_spans", "shortened", "video_spans"]

_BUILT_IN = re.compile(r"(image|video)( \d+)?|(video \d+ )?frame \d+|audio|prompt|question|answer|end")


@dataclass(frozen=True)
class TokenMap(Placed):
    """Names and text for every position of one sequence.

    Words and sentences are found by character offsets in the text that the tokens themselves decode to, never by tokenising again. Holds
    no model; can be pickled and copied. Two are equal if their ids, images, layouts, spans and family are.

    Attributes:
        ids: the token ids, padding left out.
        images: for each image, the positions of its tokens.
        layouts: for each image, where its tokens lie; None where the family does not say.
        spans: the named spans. `image` is all tokens of all images, `image 0` those of the first.
        special: ids that are no text (end of sequence, padding, the image token).
        decode: ids to text; None for a model without a processor, whose words cannot be found.
        family: the model family, for messages.
        videos, video_layouts: the same of each video.
        no_grid_reason: why the family's image tokens are no cells of the image, where they are not or there are none.

    Example:
        >>> tokens = model.encode(image, "Is there a cat?").with_answer("yes, it contains a cat. It is red.").tokens
        >>> tokens.text("answer")
        'yes, it contains a cat. It is red.'
        >>> tokens.text(tokens.sentence(1))
        'It is red.'
    """

    ids: tuple[int, ...]
    images: tuple[tuple[int, ...], ...]
    layouts: tuple[ImageLayout | None, ...]
    spans: Mapping[str, Span]
    special: frozenset[int] = frozenset()
    decode: Callable[[Sequence[int]], str] | None = field(default=None, compare=False)
    family: str = "this model"
    videos: tuple[tuple[int, ...], ...] = ()
    video_layouts: tuple[VideoLayout | None, ...] = ()
    no_grid_reason: str = ""
    _texts: dict[tuple[int, ...], TokenText] = field(default_factory=dict, compare=False)  # by token ids

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"TokenMap({self.family}, {self.summary()})"

    def _repr_html_(self) -> Html:
        if self.decode is None:
            return section(repr(self))
        characters = self._characters(None)
        return section(repr(self), coloured_text(self.text(), characters, self.spans))

    def summary(self, limit: int = 8) -> str:
        """How many tokens there are, and in which spans: `629 tokens: prompt 617, image 576`."""
        named = [f"{name} {len(span)}" for name, span in self.spans.items()]
        more = [f"{len(named) - limit} more"] if len(named) > limit else []
        return f"{len(self)} tokens: {', '.join([*named[:limit], *more]) or 'no spans'}"

    def span(self, name: str) -> Span:
        """The span of this name.

        Raises:
            SpanNotFound: the message lists the names there are.

        Example:
            >>> len(model.encode(image, "Is there a cat?").tokens.span("image"))
            196
        """
        if name not in self.spans:
            if self.no_grid_reason and name.startswith("image"):
                raise SpanNotFound(f"No span {name!r} in {self.family}: {self.no_grid_reason}. Spans here: {', '.join(self.spans)}.")
            raise SpanNotFound(f"No span {name!r}. Spans here: {', '.join(self.spans)}. Name your own with with_spans().")
        return self.spans[name]

    def with_spans(self, spans: Mapping[str, Span]) -> TokenMap:
        """The same map with spans under names of your own, which may replace earlier ones of yours.

        Raises:
            InvalidRead: a name that `encode`, `with_answer` and plain encodings give: image, image 0..., video, frame 0..., audio, prompt,
                question, answer, end.
            SpanNotFound: a span that reaches beyond the sequence.

        Example:
            >>> tokens = model.encode(image, "Is there a cat?").tokens
            >>> tokens.with_spans({"animal": tokens.word("cat", within="question")}).text("animal")
            'cat'
        """
        for name, span in spans.items():
            if _BUILT_IN.fullmatch(name):
                raise InvalidRead(
                    f"The span {name!r} is named by encode() and with_answer(); with_spans() takes other names. Choose another name."
                )
            self._check(span, name)
        return replace(self, spans={**self.spans, **{name: Span(span.positions, name) for name, span in spans.items()}})

    def text(self, within: str | Span | None = None) -> str:
        """The text of a span, special and image tokens left out, surrounding white space stripped; None: of the whole sequence.

        Example:
            >>> model.encode(image, "Is there a cat?").tokens.text("question")
            'Is there a cat?'
        """
        return self._text_of(within).text

    def word(self, word: str, within: str | Span = "answer", index: int | None = None) -> Span:
        """The tokens of a word, or of a name of several words, in the text of a span.

        Whole words only ("cat" is not in "cattle"), case-insensitive; a token that shares a character with the word belongs to it.

        Args:
            index: which occurrence, from 0; negative ones count from the last. None: the only one.

        Raises:
            SpanNotFound: the word does not occur.
            AmbiguousWord: it occurs more than once and index is None; the message lists the occurrences.

        Example:
            >>> tokens = model.encode(image, "Is there a cat?").with_answer("yes, it contains a cat.").tokens
            >>> tokens.text(tokens.word("cat"))
            'cat'
        """
        occurrences = self.find(word, within)
        if not occurrences:
            text = repr(shortened(self.text(within), 120))
            raise SpanNotFound(f"No word {word!r} in {_named(within)} {text}. Spans here: {', '.join(self.spans)}.")
        last = len(occurrences) - 1
        if index is None and last > 0:
            characters = ", ".join(f"{start}-{stop}" for start, stop in occurrences)
            raise AmbiguousWord(
                f"{word!r} occurs {last + 1} times in {_named(within)} (characters {characters}). Pass index=0 to index={last}."
            )
        start, stop = item_at(
            occurrences,
            0 if index is None else index,
            f"index={index!r}: which occurrence of {word!r}, an integer from 0 to {last}, or negative.",
            f"{word!r} occurs {last + 1} times in {_named(within)}, occurrence {index} was asked for.",
        )
        return replace(self.characters(start, stop, within), name=word)

    def find(self, word: str, within: str | Span = "answer") -> list[tuple[int, int]]:
        """Every occurrence of a word in the text of a span, as characters (start, stop); see `word`.

        Raises:
            SpanNotFound: the word is empty.

        Example:
            >>> model.encode(image, "Is there a cat?").with_answer("A cat is a cat.").tokens.find("cat")
            [(2, 5), (11, 14)]
        """
        if not word.strip():
            raise SpanNotFound("An empty word was asked for. Name a word of the text.")
        return find_words(self.text(within), word)

    def sentence(self, index: int, within: str | Span = "answer") -> Span:
        """The tokens of the index-th sentence, from 0 (negative: from the last). A sentence ends with ".", "!" or "?" before a space or the end.

        Raises:
            SpanNotFound: there are fewer sentences.

        Example:
            >>> tokens = model.encode(image, "Is there a cat?").with_answer("yes, a cat. It is red.").tokens
            >>> tokens.text(tokens.sentence(-1))
            'It is red.'
        """
        text = self.text(within)
        sentences = find_sentences(text)
        start, stop = item_at(
            sentences,
            index,
            f"Sentence {index!r} was asked for: an integer counts them from 0, or from the last if negative; {_named(within)} has {len(sentences)}.",
            f"Sentence {index} was asked for, {_named(within)} {shortened(text, 120)!r} has {len(sentences)}, counted from 0.",
        )
        return replace(self.characters(start, stop, within), name=f"sentence {index}")

    def after(self, span: Span, within: str | Span = "answer") -> Span:
        """The positions of `within` after the last one of a span; there may be none.

        Example:
            >>> tokens = model.encode(image, "Is there a cat?").with_answer("yes, a cat. It is red.").tokens
            >>> tokens.text(tokens.after(tokens.sentence(0)))
            'It is red.'
        """
        last = max(span.positions, default=-1)
        return Span(tuple(p for p in self._positions(within) if p > last), f"after {span.name}".strip())

    def predicting(self, span: str | int | Span) -> Span:
        """The positions whose logits predict the tokens of a span: for each token the position before it.

        Args:
            span: a span, its name, or one position, as `resolve` takes them.

        Raises:
            SpanNotFound: no such span, or it holds the first token, which nothing predicts.

        Example:
            >>> tokens = model.encode(image, "Is there a cat?").with_answer("yes, a cat.").tokens
            >>> tokens.predicting("answer").positions[0] == tokens.span("prompt").positions[-1]
            True
        """
        positions = self.resolve(span)
        name = span.name if isinstance(span, Span) else str(span)
        if 0 in positions:
            where = f"{name!r} holds position 0" if name else "Position 0 is among them"
            raise SpanNotFound(f"{where}, which no position predicts: it is the first of the sequence. Ask for the positions after it.")
        return Span(tuple(position - 1 for position in positions), f"predicting {name}".strip())

    def offsets(self, span: Span, within: str | Span = "answer") -> tuple[int, int]:
        """The characters (start, stop) of a span in the text of another one, `text(within)`.

        Raises:
            SpanNotFound: the span has no character of that text.

        Example:
            >>> tokens = model.encode(image, "Is there a cat?").with_answer("yes, a cat.").tokens
            >>> tokens.offsets(tokens.word("cat"))  # the token holds the space before the word, too
            (6, 10)
        """
        wanted = set(span.positions)
        inside = [(a, b) for p, a, b in self._characters(within) if p in wanted]
        if not inside:
            raise SpanNotFound(f"The span {span.name!r} (positions {_range(span.positions)}) has no text in {_named(within)}.")
        return min(a for a, _ in inside), max(b for _, b in inside)

    def characters(self, start: int, stop: int, within: str | Span | None = "answer") -> Span:
        """The tokens that share a character with [start, stop) of a span's text."""
        return Span(tuple(p for p, a, b in self._characters(within) if a < stop and b > start))

    def resolve(self, position: str | int | Span) -> tuple[int, ...]:
        """The positions of a span, of a span's name, or of one integer; negative integers count from the last token that is no padding.

        Raises:
            SpanNotFound: no such span, or a position beyond the sequence.
            GridMismatch: "image", and the image tokens are not as many as the family's layout says.

        Example:
            >>> probe.TokenMap((5, 6, 7), (), (), {}).resolve(-1)
            (2,)
        """
        if isinstance(position, str):
            if position == "image":
                self.check_layouts()
            return self.span(position).positions
        if isinstance(position, Span):
            self._check(position, position.name)
            return position.positions
        number = as_int(position)
        if number is None or not -len(self) <= number < len(self):
            raise SpanNotFound(
                f"Position {position} was asked for, the sequence has {len(self)} tokens (0 to {len(self) - 1}, or negative)."
            )
        return (number % len(self),)

    def _check(self, span: Span, name: str) -> None:
        """Raise SpanNotFound for a span with positions outside the sequence."""
        named = f"The span {name!r}" if name else "The span"
        first, last = min(span.positions, default=0), max(span.positions, default=-1)
        if first < 0:
            raise SpanNotFound(
                f"{named} has position {first}; positions run from 0 to {len(self) - 1}. Use resolve(-1) for the last token."
            )
        if last >= len(self):
            raise SpanNotFound(f"{named} reaches to position {last}, the sequence has {len(self)} tokens. Is it of another text?")

    def _positions(self, within: str | Span | None) -> tuple[int, ...]:
        if isinstance(within, str) and within not in self.spans:
            none = "These tokens have no answer yet" if within == "answer" else f"No span {within!r} to look in"
            example = next((f", such as within={name!r}" for name in ("question", "prompt", *self.spans) if name in self.spans), "")
            raise SpanNotFound(f"{none}. Spans here: {', '.join(self.spans)}. Pass within= one of them{example}.")
        return tuple(range(len(self))) if within is None else self.resolve(within)

    def _text_positions(self, within: str | Span | None) -> tuple[int, ...]:
        """The positions of a span that are text."""
        return tuple(p for p in self._positions(within) if self.ids[p] not in self.special)

    def _text_of(self, within: str | Span | None) -> TokenText:
        """The decoded text of a span, kept for the next call."""
        ids = tuple(self.ids[p] for p in self._text_positions(within))
        if ids not in self._texts:
            if self.decode is None:
                raise SpanNotFound(
                    "This model was loaded without a processor, so its tokens have no text. Address them by position or as 'image'."
                )
            self._texts[ids] = text_of(ids, self.decode)
        return self._texts[ids]

    def _characters(self, within: str | Span | None) -> list[tuple[int, int, int]]:
        """(position, start, stop) of every token of a span that holds characters of its text."""
        text = self._text_of(within)
        return [(p, a, b) for p, a, b in zip(self._text_positions(within), text.starts, text.stops, strict=True) if a < b]


def _named(within: str | Span | None) -> str:
    if isinstance(within, Span):
        return f"the span {within.name!r}" if within.name else "the span"
    return f"the {within}" if within else "the text"


def _range(positions: Sequence[int]) -> str:
    return f"{positions[0]} to {positions[-1]}" if positions else "none"
