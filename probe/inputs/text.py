"""Token ids of prompts and answers: what each position of an encoded prompt is, and which ids an answer has in its context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from probe.errors import GridMismatch
from probe.inputs.templates import refuse_image_token
from probe.tokens.layout import ImageLayout
from probe.tokens.offsets import Detokenizer
from probe.tokens.spans import Span, TokenMap, image_spans


@dataclass(frozen=True)
class Words:
    """The user's words in a prompt.

    Attributes:
        text: the words.
        occurrence: how often the same characters begin in the prompt before these.
    """

    text: str
    occurrence: int

    @classmethod
    def at(cls, prompt: str, text: str, start: int) -> Words:
        """The words that begin at a character of the prompt."""
        text = text.strip()
        return cls(text, sum(prompt.startswith(text, i) for i in range(start)))


def token_map(
    family: str, tokenizer: Any, image_token_id: int, ids: Sequence[int], layouts: Sequence[ImageLayout | None], words: Words | None
) -> TokenMap:
    """Name the positions of an encoded prompt: `image` (and `image 0`, `image 1`...), `prompt`, `question`.

    Args:
        layouts: one for each image, in order.
        words: the user's own, which become the span `question`; None: there is no such span.

    Raises:
        GridMismatch: the ids do not show as many images as there are layouts.
    """
    images = _split(ids, image_token_id, [layout.tokens if layout else None for layout in layouts])
    if len(images) != len(layouts):
        raise GridMismatch(
            f"{len(layouts)} images were given, and {family}'s input_ids show {len(images)} that can be told apart. Give fewer at once."
        )
    spans = {"prompt": Span(tuple(range(len(ids))), "prompt"), **image_spans(images)}
    special = frozenset(tokenizer.all_special_ids) | {image_token_id}
    tokens = TokenMap(tuple(ids), images, tuple(layouts), spans, special, Detokenizer(tokenizer), family)
    found = _find(tokens, words) if words is not None else None
    return tokens if found is None else replace(tokens, spans={**spans, "question": replace(found, name="question")})


def _split(ids: Sequence[int], image_token_id: int, counts: Sequence[int | None]) -> tuple[tuple[int, ...], ...]:
    """The positions of each image's tokens: by the layouts' counts where these add up, else by runs of image tokens."""
    positions = [i for i, token in enumerate(ids) if token == image_token_id]
    if len(counts) <= 1:
        return (tuple(positions),) * len(counts)
    known = [count for count in counts if count is not None]
    if len(known) == len(counts) and sum(known) == len(positions):
        edges = [sum(known[:i]) for i in range(len(known) + 1)]
        return tuple(tuple(positions[a:b]) for a, b in pairwise(edges))
    runs: list[list[int]] = []
    for position in positions:
        if runs and runs[-1][-1] == position - 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    return tuple(map(tuple, runs))


def _find(tokens: TokenMap, words: Words) -> Span | None:
    text, wanted = tokens.text(), words.text.strip()
    start = -1
    for _ in range(words.occurrence + 1):
        start = text.find(wanted, start + 1)
    return tokens.characters(start, start + len(wanted), None) if start >= 0 else None


@dataclass(frozen=True)
class AnswerTokenizer:
    """Tokenises answers behind their prompts. Holds a tokenizer and nothing of the model, so that it can be pickled.

    Attributes:
        tokenizer: a Hugging Face tokenizer.
        image_token: what stands for a picture in a text.
    """

    tokenizer: Any
    image_token: str

    def __call__(self, prompt: str, answer: str) -> tuple[int, ...]:
        """The ids of an answer behind a prompt.

        Raises:
            TemplateError: the answer holds the image token.
        """
        refuse_image_token(answer, self.image_token)
        return suffix_ids(self.tokenizer, prompt, answer)


def suffix_ids(tokenizer: Any, prompt: str, answer: str) -> tuple[int, ...]:
    """The ids of an answer as they are tokenised behind its prompt.

    Tokenising an answer alone is silently different under SentencePiece; so the whole is tokenised, and what the prompt has too is cut off.
    """
    joint = "" if not answer or answer[0].isspace() or (prompt and prompt[-1].isspace()) else " "
    before = tokenizer(prompt)["input_ids"]
    whole = tokenizer(prompt + joint + answer)["input_ids"]
    if before and before[-1] == tokenizer.eos_token_id:
        before, whole = before[:-1], whole[:-1]
    if whole[: len(before)] == before:
        return tuple(whole[len(before) :])
    # The first word of the answer grew together with the end of the prompt: the generated prompt ends where it ends, so tokenise apart.
    return tuple(tokenizer(joint + answer, add_special_tokens=False)["input_ids"])
