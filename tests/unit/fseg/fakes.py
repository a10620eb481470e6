"""Stand-ins for traces, answers and sessions, small enough to work by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import probe
from fseg.evidence import Evidence
from probe.tokens.layout import Grid, ImageLayout
from probe.tokens.spans import Span, TokenMap
from probe.tracing.activation import Activation
from probe.tracing.capturing.captured import Captured


@dataclass(frozen=True)
class FakeTrace:
    """A trace of one answer: layer -> tensor for each span, and attention as (layer, head, query, key)."""

    states: Mapping[str, Mapping[int, Tensor]] = field(default_factory=dict)
    rows: Tensor | None = None
    features: Tensor | None = None
    image_size: tuple[int, int] | None = None
    tokens: Sequence[TokenMap] = ()

    def hidden(self, at: str, layer: int | None = None, *, layers: Sequence[int] | None = None) -> Activation:
        wanted = sorted(self.states[at]) if layers is None else layers
        return Activation(torch.stack([self.states[at][number] for number in wanted])[:, None], ("layer", "batch", "token", "feature"))

    def attention(self, *, layers: Any = None, query: Any = None, key: Any = None, heads: str | None = None) -> Activation:
        assert self.rows is not None
        rows = self.rows if layers is None else self.rows[list(layers)]
        if heads == "all":
            return Activation(rows[:, None], ("layer", "batch", "head", "query", "key"))
        return Activation(rows.mean(1)[:, None], ("layer", "batch", "query", "key"))

    @property
    def captured(self) -> Captured:
        return Captured(vision={} if self.features is None else {-2: self.features})

    def vision(self, layer: int | None = None) -> Activation:
        assert self.features is not None
        rows, cols, _ = self.features.shape
        layout = ImageLayout((Grid.whole(rows, cols, self.image_size or (rows, cols)),))
        return Activation(self.features.flatten(0, 1)[None], ("batch", "token", "feature"), layout=layout)


def evidence(grid: tuple[int, int] = (2, 2), image_size: tuple[int, int] = (2, 2), name: str = "cat", **values: Any) -> Evidence:
    """Evidence of a class that is present, with whatever a test needs."""
    given = {"answer": f"yes, it contains a {name}.", "margin": None, "trace": None, "present": True, "asked_as": name, **values}
    return Evidence(name=name, grid=Grid.whole(*grid, image_size), **given)


@dataclass(frozen=True)
class FakeAnswer:
    """An answer whose tokens are the pieces that it was given in."""

    tokens: TokenMap
    margin: float | None = None

    @property
    def text(self) -> str:
        return self.tokens.text("answer")

    def with_spans(self, spans: Mapping[str, Span]) -> FakeAnswer:
        return replace(self, tokens=self.tokens.with_spans(spans))

    def pieces(self, span: str) -> list[str]:
        """The tokens of a span, as text."""
        assert self.tokens.decode is not None
        return [self.tokens.decode([self.tokens.ids[position]]) for position in self.tokens.span(span).positions]


def answer(*pieces: str, margin: float | None = None) -> FakeAnswer:
    """An answer of these pieces, with an end-of-sequence token after them; "question" stands for everything before."""
    vocabulary = ["<question>", *pieces, "</s>"]
    end = len(pieces) + 1
    tokens = TokenMap(
        ids=tuple(range(len(vocabulary))),
        images=(),
        layouts=(),
        spans={"answer": Span(tuple(range(1, end + 1)), "answer")},
        special=frozenset({0, end}),
        decode=lambda ids: "".join(vocabulary[number] for number in ids),
    )
    return FakeAnswer(tokens, margin)


def words(text: str, margin: float | None = None) -> FakeAnswer:
    """An answer with a token a word, the space before it included."""
    first, *rest = text.split(" ") if text else [""]
    return answer(first, *(f" {word}" for word in rest), margin=margin)


@dataclass
class FakeSession:
    """Answers with a function of the question and of what the answer was forced to begin with; notes every call."""

    reply: Callable[[str, str | None], FakeAnswer]
    calls: list[dict[str, Any]] = field(default_factory=list)

    def ask(
        self,
        questions: Sequence[str],
        *,
        max_new_tokens: int,
        gate: probe.Choice | None = None,
        begin: Sequence[str] | None = None,
        drafts: Sequence[str] | None = None,
    ) -> list[FakeAnswer]:
        self.calls.append({"questions": list(questions), "max_new_tokens": max_new_tokens, "gate": gate, "begin": begin, "drafts": drafts})
        return [self.reply(question, start) for question, start in zip(questions, begin or [None] * len(questions), strict=True)]

    def answer(self, questions: Sequence[str], texts: Sequence[str]) -> list[FakeAnswer]:
        return [self.reply(question, text) for question, text in zip(questions, texts, strict=True)]
