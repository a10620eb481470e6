"""PreparedImages: opened images; Encoding: one prompt with its images, as the model takes it; Answer: the same with an answer behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image

from probe.errors import TemplateError
from probe.inputs.image_cache import ImageCache
from probe.tokens.layout import ImageLayout
from probe.tokens.spans import Span, TokenMap, shortened


@dataclass(frozen=True, eq=False)
class PreparedImages:
    """Images opened once, and prepared for one model's tower once. Encodings of them share their tensors.

    Attributes:
        images: upright RGB.
        inputs, layouts: what the tower takes and where the tokens will lie, if the model resizes directly; else None, and
        image_cache: what the checkpoint's processor made of the images with the first prompt.
        made_for: whose they are; another model prepares the images anew.
    """

    images: tuple[Image.Image, ...]
    inputs: Mapping[str, Any] | None = None
    layouts: tuple[ImageLayout, ...] | None = None
    image_cache: ImageCache = field(default_factory=ImageCache, repr=False)
    made_for: Any = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Encoding:
    """A prompt with its images. Holds no model and can be pickled.

    Attributes:
        inputs: the tensors that Hugging Face's forward takes, batch of 1.
        tokens: what each position is.
        prompt: the prompt as text, image tokens not yet multiplied.
        prompt_length: its tokens; the answer begins there.
    """

    inputs: Mapping[str, Any]
    tokens: TokenMap
    prompt: str
    prompt_length: int
    _suffix: Callable[[str, str], tuple[int, ...]]
    _fill: Mapping[str, int | None]

    def __repr__(self) -> str:
        return f"Encoding({self.tokens.summary()}; inputs {', '.join(self.inputs)})"

    def with_answer(self, text: str) -> Answer:
        """The prompt with a given answer behind it, for teacher forcing; tokenised in the context of the prompt."""
        return self.with_answer_ids(self._suffix(self.prompt, text))

    def with_answer_ids(self, ids: tuple[int, ...], margin: float | None = None) -> Answer:
        """The prompt with an answer's own token ids behind it, as generated. An end-of-sequence token is named `end`, not `answer`.

        Spans of the prompt are kept; those that lie in an earlier answer go with it.

        Raises:
            TemplateError: an image token among them, behind which the model would look for another picture.
        """
        shown = {self.tokens.ids[position] for image in self.tokens.images for position in image}
        if shown & set(ids):
            raise TemplateError(
                f"The answer's ids hold the image token, {min(shown & set(ids))}. Leave it out: the pictures are those of the prompt."
            )
        start = self.prompt_length
        kept = tuple(ids)
        while kept and kept[-1] in self.tokens.special:
            kept = kept[:-1]
        inputs = dict(self.inputs)
        known = inputs["input_ids"][:, :start]
        answer = torch.tensor([ids], dtype=known.dtype, device=known.device)
        inputs["input_ids"] = torch.cat([known, answer], dim=1)
        for name in self.token_inputs - {"input_ids"}:
            # What the family does not declare is for the answer what it is for the prompt's last token, which is text.
            fill = self._fill.get(name)
            head = inputs[name][:, :start]
            tail = head[:, -1:] if fill is None else head.new_full((1, 1), fill)
            inputs[name] = torch.cat([head, tail.expand(-1, len(ids), *head.shape[2:])], dim=1)
        spans = {
            **{name: span for name, span in self.tokens.spans.items() if all(p < start for p in span.positions) and name != "answer"},
            "answer": Span(tuple(range(start, start + len(kept))), "answer"),
            "end": Span(tuple(range(start + len(kept), start + len(ids))), "end"),
        }
        if len(kept) == len(ids):
            del spans["end"]
        tokens = replace(self.tokens, ids=self.tokens.ids[:start] + tuple(ids), spans=spans, _texts={})
        return Answer(inputs, tokens, self.prompt, start, self._suffix, self._fill, margin)

    @property
    def token_inputs(self) -> frozenset[str]:
        """The inputs that say something of every token: integers or booleans whose axes begin with those of `input_ids`."""
        shape = self.inputs["input_ids"].shape
        return frozenset(name for name, value in self.inputs.items() if _integral(value) and value.shape[:2] == shape)

    def with_images_of(self, other: Encoding) -> Encoding:
        """The same prompt, its pictures in the tensors of another one where they are equal, so that they are held once."""
        shared = {
            name: other.inputs[name]
            for name, value in self.inputs.items()
            if name not in self.token_inputs and name in other.inputs and _equal(value, other.inputs[name])
        }
        return replace(self, inputs={**self.inputs, **shared})

    def with_spans(self, spans: Mapping[str, Span]) -> Any:
        """The same with names of your own, usable in reads."""
        return replace(self, tokens=self.tokens.with_spans(spans))


@dataclass(frozen=True, eq=False, repr=False)
class Answer(Encoding):
    """A prompt and its answer, generated or given. Holds no model and can be pickled.

    Attributes:
        margin: the gate's score, max logit(yes words) - max logit(no words) at the first answer position; None without a gate.
    """

    margin: float | None = None

    @property
    def text(self) -> str:
        """The answer's text, special tokens left out."""
        return self.tokens.text("answer")

    def __repr__(self) -> str:
        margin = "" if self.margin is None else f"; margin {self.margin:.3g}"
        return f"Answer({shortened(self.text, 60)!r}; {self.tokens.summary()}{margin})"


def _integral(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not value.is_floating_point() and not value.is_complex()


def _equal(one: Any, other: Any) -> bool:
    return one is other or (isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and torch.equal(one, other))
