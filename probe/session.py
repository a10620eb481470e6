"""Session: one image, many questions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from probe.decoding import Greedy, Start, decode
from probe.encoding import Answer, Encoding, Pictures
from probe.errors import InvalidPolicy, InvalidRead, SessionClosed
from probe.images import ImageLike
from probe.prefix import POLICIES, Prefix, offered_policies, reach
from probe.reads import Read
from probe.shared_trace import read_prefix, readable_behind, trace_behind

if TYPE_CHECKING:
    from probe.model import Probe
    from probe.trace import Trace

ALONE = "none"
EXPECTED = 32
"""Tokens that an answer is taken to have when questions are put together; a longer one is none the worse for it."""


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

    def margin(self, encoding: Encoding, logits: Tensor) -> float:
        """The largest logit of the first set less that of the second, at the place where the answer begins.

        Args:
            logits: (vocabulary), of the token that follows the prompt.
        """

        def best(words: Sequence[str]) -> float:
            return float(logits[[_first_token(encoding, word) for word in words]].max())

        return best(self.yes) - best(self.no)


def _first_token(encoding: Encoding, word: str) -> int:
    tokens = encoding.with_answer(word).tokens
    if not tokens.spans["answer"].positions:
        raise InvalidRead(
            f"The gate's word {word!r} has no token of its own behind this prompt. Name a word that an answer can begin with."
        )
    return tokens.ids[tokens.spans["answer"].positions[0]]


class Session:
    """One image (or one list of images) and any number of questions about it. A context manager: closing frees what it holds.

    Where the model's family allows it, the image's part of the prompt goes through the model once, at the first question, and every
    question goes on from there; in float32 the answers are those that each question gets alone (in half precision, as near as another
    order of its sums is). Pictures that are resized directly are prepared once, others by the checkpoint's processor for each question.

    Args:
        keep: reads of the image that later traces will want; they are made in the pass over the image. Other reads of the image cost a
            pass over it of their own.
        policy: how questions share the image's prefix: "packed" (one row behind it, kept apart by a mask), "batched" (a batch behind
            copies of it), "none" (each question alone: right for every model). None: the family's best.

    Raises:
        InvalidRead, InvalidLayer, NoAttention: of `keep`.
        InvalidPolicy: the family, its kernel or its generation settings cannot honour the policy.
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
        self.policy = _chosen_policy(model, policy)
        self._insists = policy not in (None, ALONE)
        model.validate(keep)
        pictures = images if isinstance(images, Pictures) else model.prepare(images)
        if pictures.inputs is not None:
            pictures = replace(pictures, inputs=model.to_device(pictures.inputs))
        self._pictures: Pictures | None = pictures
        self._model, self.keep = model, keep
        self._chat, self._template = chat, template
        self._first: Encoding | None = None
        self._prefix: Prefix | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the image, the prefix and what was kept of it. The session cannot be used afterwards."""
        self._pictures = self._first = self._prefix = None

    def ask(
        self, questions: Sequence[str], *, max_new_tokens: int = 64, gate: Choice | None = None, begin: Sequence[str] | None = None
    ) -> list[Answer]:
        """Greedy answers, one for each question, in order.

        Args:
            gate: score the first answer token first, and generate only where the margin is above the gate's threshold; elsewhere the
                answer is empty. The margin is on every answer.
            begin: for each question, words that its answer has to start with.

        Raises:
            SessionClosed.
            InvalidPolicy: a policy was asked for by name, and a prompt has words of its own before the image.
        """
        self._open()
        _as_many("begin", begin, questions)
        if begin is not None and gate is not None:
            return self._begin_gated(questions, begin, max_new_tokens, gate)
        asked = [self._encode(question) for question in questions]
        begun = [one.with_answer(text) for one, text in zip(asked, begin, strict=True)] if begin is not None else asked
        prefix = self._prefix_of(begun, max_new_tokens)
        if prefix is None:
            if self._insists and begun:
                raise InvalidPolicy(
                    f"policy={self.policy!r}: these prompts do not all begin with the same words and images, or are longer than the model's "
                    "rotary frequencies are fixed for, so that there is no prefix to share. Put the image before the question, or open the "
                    "session without a policy."
                )
            return [self._ask_alone(one, start, max_new_tokens, gate) for one, start in zip(asked, begun, strict=True)]
        return self._model.room(self.policy, "ask").together(
            list(zip(asked, begun, strict=True)),
            [len(start.tokens) - len(prefix) + EXPECTED for start in begun],
            lambda group: self._ask_together(prefix, group, max_new_tokens, gate),
        )

    def answer(self, questions: Sequence[str], texts: Sequence[str]) -> list[Answer]:
        """The questions with given answers behind them, for teacher forcing."""
        _as_many("texts", texts, questions)
        return [self._encode(question).with_answer(text) for question, text in zip(questions, texts, strict=True)]

    def trace(self, answers: Sequence[Answer], reads: Iterable[Read]) -> list[Trace]:
        """What one teacher-forced pass over each answer reads. Passes are shared as questions are; image states come from the prefix.

        Answers of another image, and reads of the image itself that are not states (attention from it, its logits), cost a pass of their own.

        Raises:
            SessionClosed; and what `Probe.run` raises.
        """
        self._open()
        asked = tuple(reads)
        prefix = self._prefix_of(answers, 0)
        if prefix is None or not readable_behind(self._model, prefix, answers, asked):
            return [self._model.run(answer, asked) for answer in answers]
        return self._model.room(self.policy, "trace").together(
            answers,
            [len(answer.tokens) - len(prefix) for answer in answers],
            lambda group: trace_behind(self._model, POLICIES[self.policy], prefix, group, asked),
        )

    def _ask_alone(self, asked: Encoding, begun: Encoding, max_new_tokens: int, gate: Choice | None) -> Answer:
        margin = None if gate is None else gate.margin(asked, self._model.next_logits(asked))
        held = gate is not None and margin is not None and not margin > gate.threshold
        if held or max_new_tokens == 0:
            return asked.with_answer_ids(() if held else begun.tokens.ids[asked.prompt_length :], margin)
        return replace(self._model.generate(begun, max_new_tokens=max_new_tokens), margin=margin)

    def _ask_together(
        self, prefix: Prefix, group: list[tuple[Encoding, Encoding]], max_new_tokens: int, gate: Choice | None
    ) -> list[Answer]:
        model = self._model
        margins: dict[int, float] = {}

        def goes_on(number: int, logits: Tensor) -> bool:
            if gate is None:
                return True
            margins[number] = gate.margin(group[number][0], logits)
            return margins[number] > gate.threshold

        starts = [
            Start(begun.tokens.ids, begun.tokens.ids[len(prefix) :], 0 if "end" in begun.tokens.spans else max_new_tokens)
            for _, begun in group
        ]
        sequences = POLICIES[self.policy](model.model, model.backbone, prefix, len(group))
        rules = Greedy.of(model.model.generation_config, model.image_token_id())
        added = decode(sequences, starts, model.last_logits, rules, goes_on)
        return [
            asked.with_answer_ids((*begun.tokens.ids[asked.prompt_length :], *new), margins.get(number))
            for number, ((asked, begun), new) in enumerate(zip(group, added, strict=True))
        ]

    def _begin_gated(self, questions: Sequence[str], begin: Sequence[str], max_new_tokens: int, gate: Choice) -> list[Answer]:
        """The margin is that of the answer's first place, before the words that it has to start with."""
        answers = self.ask(questions, max_new_tokens=0, gate=gate)
        passing = [i for i, answer in enumerate(answers) if answer.margin is not None and answer.margin > gate.threshold]
        begun = self.ask([questions[i] for i in passing], max_new_tokens=max_new_tokens, begin=[begin[i] for i in passing])
        for i, answer in zip(passing, begun, strict=True):
            answers[i] = replace(answer, margin=answers[i].margin)
        return answers

    def _open(self) -> Pictures:
        if self._pictures is None:
            raise SessionClosed("This session is closed. Open another one with model.open(image).")
        return self._pictures

    def _encode(self, question: str) -> Encoding:
        encoding = self._model.encode(self._open(), question, chat=self._chat, template=self._template)
        with self._model.engine.lock:
            first = self._first = self._first or encoding
        return encoding.with_pictures_of(first)

    def _prefix_of(self, encodings: Sequence[Encoding], room: int) -> Prefix | None:
        """What all of these begin with, read once; None: they are asked alone.

        Args:
            room: tokens that each may get.
        """
        if self.policy == ALONE or not encodings:
            return None
        with self._model.engine.lock:
            if self._prefix is None and self._first is not None:
                self._prefix = read_prefix(self._model, self._first, self.keep)
            prefix = self._prefix
        longest = max(len(encoding.tokens) for encoding in encodings) + room
        fits = prefix is not None and longest <= reach(self._model.model.config)
        return prefix if prefix is not None and fits and all(prefix.begins(encoding) for encoding in encodings) else None


def _as_many(name: str, given: Sequence[str] | None, questions: Sequence[str]) -> None:
    if given is not None and len(given) != len(questions):
        raise InvalidRead(f"{name}= has {len(given)} entries for {len(questions)} questions. Give one for each.")


def _chosen_policy(model: Probe, policy: str | None) -> str:
    """The policy to use.

    Raises:
        InvalidPolicy: there is none of this name, or this model cannot honour it; the message says why.
    """
    offered, reason = offered_policies(model.model, model.backbone)
    if policy is None:
        return offered[0] if offered else ALONE
    if policy not in (*offered, ALONE):
        raise InvalidPolicy(
            f"policy={policy!r}: {model.family} can be asked under the policies {', '.join((*offered, ALONE))}{reason and f' ({reason})'}."
        )
    return policy
