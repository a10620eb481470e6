"""Choice: a gate on the first word of an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import InvalidRead, NotFinite
from probe.inputs.encoding import Encoding

_TAIL = 3  # tokens by which prompts that end alike are known


@dataclass(frozen=True)
class Choice:
    """A gate: two sets of first words, and the margin by which the first has to lead for an answer to be generated.

    Attributes:
        yes, no: the words. Each counts by its first token.
        threshold: an answer is generated where max logit(yes) - max logit(no) is above it.

    >>> gate = probe.Choice(yes=("yes", "Yes"), no=("no", "No"))
    >>> with model.open(image) as session:
    ...     answers = session.ask(["Is there a cat in the image?", "Is there a clock in the image?"], gate=gate)
    >>> [(answer.text, answer.margin > 0) for answer in answers]
    [('yes, it contains a cat. The cat is medium and green, at the bottom.', True), ('', False)]
    """

    yes: tuple[str, ...]
    no: tuple[str, ...]
    threshold: float = 0.0

    def __post_init__(self) -> None:
        for side, words in (("yes", self.yes), ("no", self.no)):
            if not isinstance(words, tuple) or not words or not all(words):
                raise InvalidRead(f"Choice({side}={words!r}): {side} is a tuple of one or more first words, such as ({side!r},).")

    def margins(
        self, encodings: Sequence[Encoding], logits: Float[Tensor, "sequence vocabulary"], first_tokens: FirstTokens
    ) -> list[float]:
        """For each prompt the largest logit of the yes words minus the largest of the no words, at the first answer position.

        Args:
            logits: of the token that follows each prompt.

        Raises:
            NotFinite: a prompt's logits hold NaN or infinity.
            InvalidRead: a word has no token of its own behind a prompt.
        """
        scores = logits.float()

        def best(words: Sequence[str]) -> Tensor:
            ids = torch.tensor([[first_tokens.of(one, word) for word in words] for one in encodings], device=scores.device)
            return scores.gather(1, ids).amax(1)

        # The largest of all is NaN where any is. One tensor, so that there is one synchronisation with the device.
        largest, yes, no = torch.stack([scores.amax(-1), best(self.yes), best(self.no)]).tolist()
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
