"""Drafts: the tokens that an answer may go on with. Verified in one pass, they cost no step of their own, and change no answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LOOKED_UP = 2
"""Tokens that are drafted at most from other answers, of which fewer are right than of a text that the question asks for."""


@dataclass(frozen=True)
class Drafting:
    """How far drafts saved steps.

    Attributes:
        tokens: that were generated.
        steps: over all answers, the passes that each took part in; without drafts one for each token.
        drafted: tokens that were drafted.
        accepted: those of them that greedy decoding chose as well.

    >>> Drafting(tokens=20, steps=12, drafted=10, accepted=8).saved
    0.4
    """

    tokens: int = 0
    steps: int = 0
    drafted: int = 0
    accepted: int = 0

    def __add__(self, other: Drafting) -> Drafting:
        return Drafting(self.tokens + other.tokens, self.steps + other.steps, self.drafted + other.drafted, self.accepted + other.accepted)

    @property
    def saved(self) -> float:
        """The share of steps that were not needed."""
        return 1 - self.steps / self.tokens if self.tokens else 0.0


class Continued:
    """What followed each token in the answers so far, the last time that it occurred."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[list[int], int]] = {}  # token -> an answer, and the index of what follows there

    def note(self, answer: list[int], new: int) -> None:
        """Take in the last `new` tokens of an answer, which may grow."""
        for place in range(max(1, len(answer) - new), len(answer)):
            self._places[answer[place - 1]] = (answer, place)

    def after(self, token: int) -> list[int]:
        """What followed a token; it may be nothing.

        >>> seen = Continued()
        >>> seen.note([5, 6, 7, 5, 8], new=5)
        >>> seen.after(6), seen.after(5), seen.after(9)
        ([7, 5], [8], [])
        """
        answer, place = self._places.get(token, ([], 0))
        return answer[place : place + LOOKED_UP]


def drafted(added: Sequence[int], draft: Sequence[int], seen: Continued, most: int) -> tuple[int, ...]:
    """The tokens that an answer may go on with: the rest of its draft, or what followed its last token in another answer.

    Args:
        added: its tokens so far.
        draft: the text that it may follow from its first token on.
        most: tokens to draft.

    >>> seen = Continued()
    >>> seen.note([9, 3, 2], new=3)
    >>> drafted([5, 6], [5, 6, 7, 8], seen, most=4), drafted([5, 9], [5, 6, 7, 8], seen, most=1)
    ((7, 8), (3,))
    """
    if len(added) < len(draft) and tuple(added) == tuple(draft[: len(added)]):
        return tuple(draft[len(added) :][:most])
    return tuple(seen.after(added[-1])[:most]) if added else ()
