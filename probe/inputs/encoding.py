"""PreparedImages: opened images; Encoding: one prompt with its images as model inputs; Answer: an Encoding followed by an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from probe.errors import TemplateError
from probe.inputs.image_cache import ImageCache
from probe.notebook import Html, section, table
from probe.tokens.equality import equal_values
from probe.tokens.layout import ImageLayout
from probe.tokens.spans import Span, TokenMap, shortened


@dataclass(frozen=True, eq=False)
class PreparedImages:
    """Images opened once, and prepared once for one model's vision tower. Encodings of them share their tensors.

    Can be pickled and copied; two are equal if their images, inputs and layouts are.

    Attributes:
        images: upright RGB.
        inputs, layouts: what the tower takes and where the image tokens will lie, if the model resizes directly; else None.
        image_cache: the output of the checkpoint's image processor, kept from the first prompt on.
        made_for: the loaded model's preparation; a model with another one prepares the images anew.

    Example:
        >>> prepared = model.prepare(image)
        >>> len(prepared.images)
        1
        >>> model.encode(prepared, "Is there a cat?").tokens == model.encode(image, "Is there a cat?").tokens
        True
    """

    images: tuple[Image.Image, ...]
    inputs: Mapping[str, Tensor] | None = None
    layouts: tuple[ImageLayout, ...] | None = None
    image_cache: ImageCache = field(default_factory=ImageCache, repr=False)
    made_for: object = field(default=None, repr=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PreparedImages):
            return NotImplemented
        return self is other or equal_values((self.images, self.inputs, self.layouts), (other.images, other.inputs, other.layouts))

    def __hash__(self) -> int:
        return hash((self.layouts, *((image.mode, image.size) for image in self.images)))


@dataclass(frozen=True, eq=False)
class Encoding:
    """A prompt with its images. Holds no model; can be pickled and copied.

    Two are equal if their inputs, tokens and prompts are; what their tokenizers do is not compared.

    Attributes:
        inputs: the tensors that Hugging Face's forward takes, batch of 1.
        tokens: names and text of each position.
        prompt: the prompt as text, with one image token for each image.
        prompt_length: its tokens; the answer begins at this position.

    Example:
        >>> encoding = model.encode(image, "Is there a cat?")
        >>> sorted(encoding.inputs)
        ['attention_mask', 'input_ids', 'pixel_values']
        >>> encoding.tokens.text("question")
        'Is there a cat?'
    """

    inputs: Mapping[str, Tensor]
    tokens: TokenMap
    prompt: str
    prompt_length: int
    _suffix: Callable[[str, str], tuple[int, ...]]
    _fill: Mapping[str, int | None]

    def __repr__(self) -> str:
        return f"Encoding({self.tokens.summary()}; inputs {', '.join(self.inputs)})"

    def _repr_html_(self) -> Html:
        rows = [
            (name, " x ".join(map(str, tensor.shape)), str(tensor.dtype).removeprefix("torch.")) for name, tensor in self.inputs.items()
        ]
        return section(type(self).__name__, table(rows, ("input", "shape", "dtype")), self.tokens._repr_html_())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Encoding):
            return NotImplemented
        return self is other or (type(self) is type(other) and equal_values(self._compared(), other._compared()))

    def __hash__(self) -> int:
        return hash((type(self), self.tokens.ids, self.prompt))

    def _compared(self) -> tuple[object, ...]:
        return self.tokens, self.prompt, self.prompt_length, self._fill, self.inputs

    @property
    def sequence(self) -> Int[Tensor, "batch token"]:
        """The ids of the sequence that `tokens` describes and an answer continues: `input_ids`, or `decoder_input_ids` if an encoder reads those.

        Example:
            >>> model.encode(image, "Is there a cat?").sequence.shape
            torch.Size([1, 210])
        """
        return self.inputs[self._ids_name]

    @property
    def _ids_name(self) -> str:
        return f"{self._prefix}input_ids"

    @property
    def _prefix(self) -> str:
        """What the names of the decoder's inputs begin with."""
        return "decoder_" if "decoder_input_ids" in self.inputs else ""

    @property
    def token_inputs(self) -> frozenset[str]:
        """The inputs with a value for each token: integers or booleans whose first two axes are those of `sequence`.

        Example:
            >>> sorted(model.encode(image, "Is there a cat?").token_inputs)
            ['attention_mask', 'input_ids']
        """
        if self._ids_name not in self.inputs:  # an image alone
            return frozenset()
        shape, own = self.sequence.shape, self._prefix
        return frozenset(
            name
            for name, value in self.inputs.items()
            # Rows and columns of an image's patches, which may be as many as the tokens, have another axis.
            if name.startswith(own)
            and _is_integral(value)
            and value.shape[:2] == shape
            and not (name.startswith("image_") and not name.endswith("mask") and value.ndim > 2)
        )

    def with_answer(self, text: str) -> Answer:
        """The prompt followed by a given answer, for teacher forcing; tokenised in the context of the prompt.

        Example:
            >>> answer = model.encode(image, "Is there a cat?").with_answer("yes, it contains a cat.")
            >>> answer.text
            'yes, it contains a cat.'
            >>> answer.tokens.word("cat").positions == answer.tokens.resolve(-2)
            True
        """
        return self.with_answer_ids(self.answer_ids(text))

    def answer_ids(self, text: str) -> tuple[int, ...]:
        """The ids of a given answer, tokenised in the context of the prompt.

        Example:
            >>> encoding = model.encode(image, "Is there a cat?")
            >>> encoding.answer_ids("No.") == encoding.with_answer("No.").tokens.ids[encoding.prompt_length:]
            True
        """
        return self._suffix(self.prompt, text)

    def with_answer_ids(
        self, ids: tuple[int, ...], margin: float | None = None, log_probabilities: Float[Tensor, "token"] | None = None
    ) -> Answer:
        """The prompt followed by an answer's token ids, as generated. Trailing special tokens become the span `end`, the rest `answer`.

        The prompt's spans are kept; spans that reach into an earlier answer are dropped. `margin` and `log_probabilities` are the Answer's.

        Raises:
            TemplateError: an image token is among the ids, for which the model would expect another image; or the model reads no text.

        Example:
            >>> answer = model.encode(image, "Is there a cat?").with_answer("No.")
            >>> answer.with_answer_ids(answer.tokens.ids[answer.prompt_length:]) == answer
            True
        """
        if self._ids_name not in self.inputs:
            raise TemplateError("This encoding is of an image alone, for a vision encoder, which answers nothing. Run it as it is.")
        self._refuse_image_tokens(ids)
        length = self.prompt_length
        tokens = replace(self.tokens, ids=self.tokens.ids[:length] + tuple(ids), spans=self._answer_spans(ids))
        return Answer(self._inputs_with(ids), tokens, self.prompt, length, self._suffix, self._fill, margin, log_probabilities)

    def _refuse_image_tokens(self, ids: tuple[int, ...]) -> None:
        image_tokens = {self.tokens.ids[position] for position in self.tokens.shown}
        if image_tokens & set(ids):
            raise TemplateError(
                f"The answer's ids hold the image token, {min(image_tokens & set(ids))}. Leave it out: the images are those of the prompt."
            )

    def _inputs_with(self, ids: tuple[int, ...]) -> dict[str, Tensor]:
        """The prompt's inputs, those with a value for each token extended over an answer."""
        inputs, ids_name = dict(self.inputs), self._ids_name
        if not ids and len(self.tokens) == self.prompt_length:
            return inputs
        leading = len(self.tokens) - self.sequence.shape[1]  # positions that the model itself puts before the ids
        length = self.prompt_length - leading
        prompt = inputs[ids_name][:, :length]
        inputs[ids_name] = torch.cat([prompt, torch.tensor([ids], dtype=prompt.dtype, device=prompt.device)], dim=1)
        for name in self.token_inputs - {ids_name}:
            # An input that the family does not declare gets the value of the prompt's last token, which is text.
            fill, prompt = self._fill.get(name.removeprefix(self._prefix)), inputs[name][:, :length]
            last = prompt[:, -1:] if fill is None else prompt.new_full((1, 1), fill)
            inputs[name] = torch.cat([prompt, last.expand(-1, len(ids), *prompt.shape[2:])], dim=1)
        return inputs

    def _answer_spans(self, ids: tuple[int, ...]) -> dict[str, Span]:
        """The spans of the prompt, and `answer` and `end` of an answer after it."""
        start, stop = self.prompt_length, self.prompt_length + len(ids)
        end = stop
        while end > start and ids[end - start - 1] in self.tokens.special:
            end -= 1
        spans = {name: span for name, span in self.tokens.spans.items() if max(span.positions, default=-1) < start}
        spans["answer"] = Span(tuple(range(start, end)), "answer")
        if end < stop:
            spans["end"] = Span(tuple(range(end, stop)), "end")
        return spans

    def with_images_of(self, other: Encoding) -> Self:
        """This encoding with the image tensors of another one in place of its own equal ones, so that memory holds them once.

        Example:
            >>> one, two = (model.encode(image, question) for question in ("Is there a cat?", "Is there a dog?"))
            >>> two.with_images_of(one).inputs["pixel_values"] is one.inputs["pixel_values"]
            True
        """
        shared = {
            name: other.inputs[name]
            for name, value in self.inputs.items()
            if name not in self.token_inputs and name in other.inputs and equal_values(value, other.inputs[name])
        }
        return replace(self, inputs={**self.inputs, **shared})

    def with_spans(self, spans: Mapping[str, Span]) -> Self:
        """This encoding with spans under names of your own, usable in reads.

        Raises:
            InvalidRead, SpanNotFound: as `TokenMap.with_spans`.

        Example:
            >>> answer = model.encode(image, "Is there a cat?").with_answer("yes, it contains a cat.")
            >>> named = answer.with_spans({"animal": answer.tokens.word("cat")})
            >>> named.tokens.text("animal")
            'cat'
        """
        return replace(self, tokens=self.tokens.with_spans(spans))


@dataclass(frozen=True, eq=False, repr=False)
class Answer(Encoding):
    """A prompt and its answer, generated or given. Holds no model; can be pickled, copied and compared.

    Attributes:
        margin: the gate's score, max logit(yes words) - max logit(no words) at the first answer position; None without a gate.
        log_probabilities: of the generated tokens, float32, on the CPU: the last ones of the sequence, a token that ended the answer
            included, words that were given left out. The model's own distribution, before penalties, temperature or sampling:
            `log_softmax` of Hugging Face's logits at `tokens.predicting("answer")`. None: generated without `scores=True`.

    Example:
        >>> answer = model.encode(image, "Is there a cat?").with_answer("No.")
        >>> answer.text, answer.margin
        ('No.', None)
    """

    margin: float | None = None
    log_probabilities: Float[Tensor, "token"] | None = None

    @property
    def text(self) -> str:
        """The answer's text, special tokens left out."""
        return self.tokens.text("answer")

    @property
    def probabilities(self) -> Float[Tensor, "token"] | None:
        """The probability of each generated token, from `log_probabilities`.

        Example:
            >>> answer = model.generate(model.encode(image, "Is there a cat?"), scores=True, max_new_tokens=3)
            >>> len(answer.probabilities), bool((answer.probabilities > 0.1).all())
            (3, True)
        """
        return None if self.log_probabilities is None else self.log_probabilities.exp()

    def __repr__(self) -> str:
        margin = "" if self.margin is None else f"; margin {self.margin:.3g}"
        return f"Answer({shortened(self.text, 60)!r}; {self.tokens.summary()}{margin})"

    def _repr_html_(self) -> Html:
        rows = [("answer", self.text)]
        if self.margin is not None:
            rows.append(("margin", f"{self.margin:.3g}"))
        if self.probabilities is not None:
            rows.append(("least likely token", f"{float(self.probabilities.min()):.3g}"))
        return section("Answer", table(rows), self.tokens._repr_html_())

    def _compared(self) -> tuple[object, ...]:
        return *super()._compared(), self.margin, self.log_probabilities


def _is_integral(value: object) -> bool:
    return isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()
