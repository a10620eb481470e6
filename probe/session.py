"""Session: one image, many questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from probe.encoding import Answer, Encoding, Pictures
from probe.errors import InvalidRead, SessionClosed
from probe.images import ImageLike
from probe.reads import Read

if TYPE_CHECKING:
    from probe.model import Probe
    from probe.trace import Trace

POLICIES = ("none",)


@dataclass(frozen=True)
class Choice:
    """A gate: two sets of first words, and how much the first set's best logit has to lead by for an answer to be generated."""

    yes: tuple[str, ...]
    no: tuple[str, ...]
    threshold: float = 0.0

    def __post_init__(self) -> None:
        for side, words in (("yes", self.yes), ("no", self.no)):
            if not isinstance(words, tuple) or not words or not all(words):
                raise InvalidRead(f"Choice({side}={words!r}): {side} is a tuple of one or more first words, such as ({side!r},).")


class Session:
    """One image (or one list of images) and any number of questions about it. A context manager: closing frees what it holds.

    Args:
        keep: reads of the image that later traces will want; checked against the model here.
        policy: how questions share the image's prefix. "none": each question alone, right for every model.

    Raises:
        InvalidRead, InvalidLayer, NoAttention: of `keep`, or a policy that there is not.
    """

    def __init__(
        self,
        model: Probe,
        images: ImageLike | Sequence[ImageLike] | Pictures,
        *,
        keep: tuple[Read, ...] = (),
        policy: str | None = None,
        chat: bool = True,
        template: str | None = None,
    ) -> None:
        if policy not in (None, *POLICIES):
            raise InvalidRead(f"policy={policy!r}: {model.family} can be asked under the policies {', '.join(POLICIES)}.")
        model.validate(keep)
        self._pictures: Pictures | None = images if isinstance(images, Pictures) else model.prepare(images)
        self._model, self.keep, self.policy = model, keep, policy or "none"
        self._chat, self._template = chat, template

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the image. The session cannot be used afterwards."""
        self._pictures = None

    def ask(
        self, questions: Sequence[str], *, max_new_tokens: int = 64, gate: Choice | None = None, begin: Sequence[str] | None = None
    ) -> list[Answer]:
        """Greedy answers, one for each question.

        Args:
            gate: score the first answer token first, and generate only where the margin is above the gate's threshold; elsewhere the
                answer is empty. The margin is on every answer.
            begin: for each question, words that its answer has to start with.

        Raises:
            SessionClosed.
        """
        starts = list(begin) if begin is not None else [None] * len(questions)
        return [
            self._ask(question, start, max_new_tokens=max_new_tokens, gate=gate) for question, start in zip(questions, starts, strict=True)
        ]

    def answer(self, questions: Sequence[str], texts: Sequence[str]) -> list[Answer]:
        """The questions with given answers behind them, for teacher forcing."""
        return [self._encode(question).with_answer(text) for question, text in zip(questions, texts, strict=True)]

    def trace(self, answers: Sequence[Answer], reads: Sequence[Read]) -> list[Trace]:
        """One teacher-forced pass for each answer, with these reads."""
        self._open()
        return [self._model.run(answer, reads) for answer in answers]

    def _ask(self, question: str, begin: str | None, *, max_new_tokens: int, gate: Choice | None) -> Answer:
        encoding = self._encode(question)
        margin = self._margin(encoding, gate) if gate is not None else None
        if gate is not None and margin is not None and not margin > gate.threshold:
            return encoding.with_answer_ids((), margin)
        return replace(self._model.generate(encoding, begin=begin, max_new_tokens=max_new_tokens), margin=margin)

    def _margin(self, encoding: Encoding, gate: Choice) -> float:
        logits = self._model.next_logits(encoding)
        first = {word: encoding.with_answer(word).tokens for word in (*gate.yes, *gate.no)}

        def best(words: Sequence[str]) -> float:
            return float(logits[[tokens.ids[tokens.spans["answer"].positions[0]] for tokens in (first[word] for word in words)]].max())

        return best(gate.yes) - best(gate.no)

    def _open(self) -> Pictures:
        if self._pictures is None:
            raise SessionClosed("This session is closed. Open another one with model.open(image).")
        return self._pictures

    def _encode(self, question: str) -> Encoding:
        return self._model.encode(self._open(), question, chat=self._chat, template=self._template)
