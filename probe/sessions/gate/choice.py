"""Choice: a gate on the first word of an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import InvalidRead, NotFinite
from probe.inputs.encoding import Encoding
from probe.sessions.gate.beginnings import beginnings
from probe.tokens.offsets import Detokenizer

GateTokens = Literal["own", "every"]
GATE_TOKENS: tuple[GateTokens, ...] = ("own", "every")

_TAIL = 3  # tokens by which prompts that end alike are known


@dataclass(frozen=True)
class Choice:
    """A gate: two sets of first words, and the margin by which the first has to lead for an answer to be generated.

    Attributes:
        yes, no: the words.
        threshold: an answer is generated where the margin is above it.
        tokens: "own": each word counts by its own first token, and the margin is max logit(yes) - max logit(no). "every": each side counts by
            all tokens of the vocabulary that begin one of its words, in any case and behind a space or a quotation mark, and the margin is
            log p(yes) - log p(no), of the sums of their probabilities. A token of a part of a word, such as "Y", is among them; a space
            or a quotation mark alone is not.

    >>> gate = probe.Choice(yes=("yes", "Yes"), no=("no", "No"))
    >>> with model.open(image) as session:
    ...     answers = session.ask(["Is there a cat in the image?", "Is there a clock in the image?"], gate=gate)
    >>> [(answer.text, answer.margin > 0) for answer in answers]
    [('yes, it contains a cat. The cat is medium and green, at the bottom.', True), ('', False)]
    """

    yes: tuple[str, ...]
    no: tuple[str, ...]
    threshold: float = 0.0
    tokens: GateTokens = "own"

    def __post_init__(self) -> None:
        if self.tokens not in GATE_TOKENS:
            raise InvalidRead(f'Choice(tokens={self.tokens!r}): tokens is "own" or "every".')
        for side, words in (("yes", self.yes), ("no", self.no)):
            if not isinstance(words, tuple) or not words or not all(words):
                raise InvalidRead(f"Choice({side}={words!r}): {side} is a tuple of one or more first words, such as ({side!r},).")

    def margins(
        self, encodings: Sequence[Encoding], logits: Float[Tensor, "sequence vocabulary"], first_tokens: FirstTokens
    ) -> list[float]:
        """For each prompt by how much the yes words lead the no words at the first answer position, in logits.

        Args:
            logits: of the token that follows each prompt.

        Raises:
            NotFinite: a prompt's logits hold NaN or infinity.
            InvalidRead: a word has no token of its own behind a prompt, or no token of the vocabulary begins it.
        """
        scores = logits.float()

        def of_side(words: tuple[str, ...]) -> Tensor:
            if self.tokens == "every":
                return scores[:, list(_all_beginnings(encodings[0], words))].logsumexp(1)
            ids = torch.tensor([[first_tokens.of(one, word) for word in words] for one in encodings], device=scores.device)
            return scores.gather(1, ids).amax(1)

        # The largest of all is NaN where any is. One tensor, so that there is one synchronisation with the device.
        largest, yes, no = torch.stack([scores.amax(-1), of_side(self.yes), of_side(self.no)]).tolist()
        if not all(map(math.isfinite, (*largest, *yes, *no))):
            raise NotFinite.of_next_logits()
        return [one - other for one, other in zip(yes, no, strict=True)]


class FirstTokens:
    """The first tokens of words behind prompts, found once for all prompts that end alike.

    Where a word's token begins at the prompt's end, what was before does not change it; whether it does begin there, the last tokens decide.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, tuple[int, ...], str], int] = {}

    def of(self, encoding: Encoding, word: str) -> int:
        """The first token of a word behind a prompt.

        Raises:
            InvalidRead: it has none of its own.
        """
        key = (word, encoding.tokens.ids[-_TAIL:], encoding.prompt[-1:])
        if key not in self._known:
            self._known[key] = _first_token(encoding, word)
        return self._known[key]


def _first_token(encoding: Encoding, word: str) -> int:
    tokens = encoding.with_answer(word).tokens
    if not tokens.spans["answer"].positions:
        raise InvalidRead(
            f"The gate's word {word!r} has no token of its own behind this prompt. Name a word that an answer can begin with."
        )
    return tokens.ids[tokens.spans["answer"].positions[0]]


def _all_beginnings(encoding: Encoding, words: tuple[str, ...]) -> tuple[int, ...]:
    decode = encoding.tokens.decode
    assert isinstance(decode, Detokenizer), "a session's prompts come from a tokenizer"
    ids = beginnings(decode.tokenizer, words)
    if not ids:
        raise InvalidRead(f"No token of the vocabulary begins one of the gate's words {', '.join(map(repr, words))}. Name other words.")
    return ids
