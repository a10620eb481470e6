"""Token ids of prompts and answers: the names of an encoded prompt's positions, and the ids of an answer in the context of its prompt."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import Tensor

from probe.inputs.encoding import Encoding
from probe.inputs.media import Media, image_positions
from probe.inputs.patches import NO_TOKEN
from probe.inputs.templates import refuse_image_token
from probe.tokens.layout import ImageLayout
from probe.tokens.offsets import Detokenizer
from probe.tokens.spans import Span, TokenMap, image_spans, video_spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Words:
    """The user's words in a prompt.

    Attributes:
        text: the words.
        occurrence: how many times the same characters occur in the prompt before these.
    """

    text: str
    occurrence: int

    @classmethod
    def at(cls, prompt: str, text: str, start: int) -> Words:
        """The words that begin at a character of the prompt."""
        text = text.strip()
        return cls(text, sum(prompt.startswith(text, i) for i in range(start)))


def token_map(
    family: str,
    tokenizer: PreTrainedTokenizerBase,
    image_token_id: int | None,
    ids: Sequence[int],
    layouts: Sequence[ImageLayout | None],
    words: Words | None,
    media: Media | None = None,
    no_grid_reason: str = "",
) -> TokenMap:
    """Name the positions of an encoded prompt: `image` (and `image 0`, `image 1`...), `prompt`, `question`.

    Args:
        image_token_id: None: the model has none.
        ids: NO_TOKEN where the model itself puts an image.
        layouts: one for each image, in order.
        words: the user's own, which become the span `question`; None: there is no such span.
        media: its videos, and what the processor put in for each image and video, where that is known.
        no_grid_reason: why the family's image tokens are no cells of the image.

    Raises:
        GridMismatch: the ids do not hold as many images and videos as there are.
    """
    media = media or Media()
    positions = image_positions(ids, image_token_id, media.video_token_id)
    images, videos = media.divided(family, positions, [layout.tokens if layout else None for layout in layouts])
    shown = {**image_spans(images), **video_spans(videos, media.layouts)}
    spans = {"prompt": Span(tuple(range(len(ids))), "prompt"), **shown}
    special = frozenset(tokenizer.all_special_ids) | {NO_TOKEN, *media.known(image_token_id)}
    of_videos, text = (videos, tuple(media.layouts)), Detokenizer(tokenizer)
    tokens = TokenMap(tuple(ids), images, tuple(layouts), spans, special, text, family, *of_videos, no_grid_reason)
    question = _span_of(words, tokens) if words is not None else None
    return tokens if question is None else replace(tokens, spans={**spans, "question": replace(question, name="question")})


def _span_of(words: Words, tokens: TokenMap) -> Span | None:
    """The tokens of the user's words; None: the decoded prompt does not hold them."""
    text, wanted = tokens.text(), words.text.strip()
    start = -1
    for _ in range(words.occurrence + 1):
        start = text.find(wanted, start + 1)
    return tokens.characters(start, start + len(wanted), None) if start >= 0 else None


_ANSWERS = 32  # that are kept for one prompt: a gate's words, and what a question asks for


@dataclass(frozen=True)
class AnswerTokenizer:
    """Tokenises answers after their prompts. Holds a tokenizer and nothing of the model, so it can be pickled; copies share the tokenizer.

    Attributes:
        tokenizer: a Hugging Face tokenizer.
        image_token: the text of the token that stands for an image; "" if there is none.
    """

    tokenizer: PreTrainedTokenizerBase
    image_token: str
    _known: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict, compare=False, repr=False)

    def __deepcopy__(self, memo: dict[int, object]) -> AnswerTokenizer:
        return self

    def __call__(self, prompt: str, answer: str) -> tuple[int, ...]:
        """The ids of an answer after a prompt.

        Raises:
            TemplateError: the answer holds the image token.
        """
        refuse_image_token(answer, self.image_token)
        if (prompt, answer) not in self._known:
            if len(self._known) >= _ANSWERS:
                self._known.clear()
            self._known[prompt, answer] = suffix_ids(self.tokenizer, prompt, answer)
        return self._known[prompt, answer]


def suffix_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> tuple[int, ...]:
    """The ids of an answer, tokenised after its prompt.

    An answer tokenised alone has other ids under SentencePiece, so prompt and answer are tokenised together and the prompt's ids cut off.
    """
    joint = "" if not answer or answer[0].isspace() or (prompt and prompt[-1].isspace()) else " "
    before = tokenizer(prompt)["input_ids"]
    whole = tokenizer(prompt + joint + answer)["input_ids"]
    if before and before[-1] == tokenizer.eos_token_id:
        before, whole = before[:-1], whole[:-1]
    if whole[: len(before)] == before:
        return tuple(whole[len(before) :])
    # A token spans the end of the prompt and the first word of the answer. In generation the prompt's tokens are fixed, so tokenise apart.
    return tuple(tokenizer(joint + answer, add_special_tokens=False)["input_ids"])


PROMPTS = 1024
"""Prompts that are kept: the questions of a few lists of classes."""


@dataclass(frozen=True, eq=False)
class PromptCache:
    """Encodings without their images, by what their ids depend on; those that were used last are kept."""

    _known: dict[Hashable, Encoding] = field(default_factory=dict)

    def find(self, key: Hashable, images: Mapping[str, Tensor], layouts: Sequence[ImageLayout]) -> Encoding | None:
        """The encoding of a known prompt with other images; None: it is not known.

        Args:
            images, layouts: of the images, on the model's device.
        """
        known = self._known.pop(key, None)
        if known is None:
            return None
        self._known[key] = known
        # The texts of later answers belong to one image's prompt, not to all.
        tokens = replace(known.tokens, layouts=tuple(layouts), _texts=dict(known.tokens._texts))
        return replace(known, inputs={**known.inputs, **images}, tokens=tokens)

    def keep(self, key: Hashable, encoding: Encoding, images: Mapping[str, Tensor]) -> None:
        """Keep an encoding without its images."""
        text = {name: value for name, value in encoding.inputs.items() if name not in images}
        tokens = replace(encoding.tokens, layouts=(None,) * len(encoding.tokens.layouts), _texts=dict(encoding.tokens._texts))
        self._known[key] = replace(encoding, inputs=text, tokens=tokens)
        while len(self._known) > PROMPTS:
            self._known.pop(next(iter(self._known)), None)
