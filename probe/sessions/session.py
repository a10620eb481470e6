"""Session: one image, many questions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import InvalidPolicy, InvalidRead, NotFinite, SessionClosed
from probe.inputs.encoding import Answer, Encoding, PreparedImages
from probe.inputs.images import ImageLike
from probe.sessions.greedy import NEXT_LOGITS, TOKEN_BUDGET, Greedy, Start, decode
from probe.sessions.prefix import POLICIES, Continuations, Prefix, max_rope_length, offered_policies
from probe.sessions.shared_trace import read_prefix, readable_behind, trace_behind
from probe.tracing.reads import Read

if TYPE_CHECKING:
    from probe.model import Probe
    from probe.tracing.trace import Trace

ALONE = "none"
EXPECTED_ANSWER_TOKENS = 32
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

    def margins(self, encodings: Sequence[Encoding], logits: Float[Tensor, "sequence vocabulary"]) -> list[float]:
        """For each prompt the largest logit of the first set less that of the second, at the place where its answer begins.

        Args:
            logits: of the token that follows each prompt.

        Raises:
            NotFinite: a prompt's logits hold NaN or infinity.
        """
        scores = logits.float()

        def best(words: Sequence[str]) -> Tensor:
            return torch.stack([row[[_first_token(one, word) for word in words]].max() for one, row in zip(encodings, scores, strict=True)])

        # The largest of all is NaN where any is; with the others in one tensor, there is one synchronisation.
        largest, yes, no = torch.stack([scores.amax(-1), best(self.yes), best(self.no)]).tolist()
        if not all(map(math.isfinite, (*largest, *yes, *no))):
            raise NotFinite(NEXT_LOGITS)
        return [one - other for one, other in zip(yes, no, strict=True)]


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
    order of its sums is). Images are prepared once.

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
        images: ImageLike | Sequence[ImageLike] | PreparedImages,
        *,
        keep: tuple[Read, ...] = (),
        policy: str | None = None,
        chat: bool = True,
        template: str | None = None,
    ) -> None:
        self.policy = _chosen_policy(model, policy)
        self._insists = policy not in (None, ALONE)
        model.validate(keep)
        pictures = model.pictures(images)
        if pictures.inputs is not None:
            pictures = replace(pictures, inputs=model.to_device(pictures.inputs))
        self._pictures: PreparedImages | None = pictures
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
            NotFinite: logits of the next token hold NaN or infinity.
            InvalidPolicy: a policy was asked for by name, and a prompt has words of its own before the image.
        """
        self._open()
        _as_many("begin", begin, questions)
        asked = [self._encode(question) for question in questions]
        if gate is None:
            return self._generated(asked, begin, max_new_tokens)
        margins = self._margins(asked, gate)
        passing = [number for number, margin in enumerate(margins) if margin > gate.threshold]
        started = None if begin is None else [begin[number] for number in passing]
        generated = dict(zip(passing, self._generated([asked[number] for number in passing], started, max_new_tokens), strict=True))
        return [replace(generated.get(number) or one.with_answer_ids(()), margin=margins[number]) for number, one in enumerate(asked)]

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
            lambda group: self._traced(prefix, group, asked),
        )

    def _traced(self, prefix: Prefix, answers: list[Answer], reads: Sequence[Read]) -> list[Trace]:
        with self._explained(answers):
            return trace_behind(self._model, POLICIES[self.policy], prefix, answers, reads)

    def _margins(self, asked: Sequence[Encoding], gate: Choice) -> list[float]:
        """The gate's score of each prompt."""
        model, prefix = self._model, self._prefix_of(asked, 0, insist=self._insists)
        if prefix is None:
            return [self._scored(gate, [encoding], model.next_logits(encoding)[None])[0] for encoding in asked]

        def score(group: list[Encoding]) -> list[float]:
            packed = self._continuations(prefix, len(group)).next_inputs([encoding.tokens.ids[len(prefix) :] for encoding in group])
            return self._scored(gate, group, model.last_logits(packed))

        return model.room(self.policy, "score").together(asked, [len(encoding.tokens) - len(prefix) for encoding in asked], score)

    def _scored(self, gate: Choice, encodings: Sequence[Encoding], logits: Tensor) -> list[float]:
        with self._explained(encodings):
            return gate.margins(encodings, logits)

    def _generated(self, asked: Sequence[Encoding], begin: Sequence[str] | None, max_new_tokens: int) -> list[Answer]:
        """Greedy answers of these prompts, which begin with these words."""
        model = self._model
        begun = list(asked) if begin is None else [one.with_answer(text) for one, text in zip(asked, begin, strict=True)]
        if max_new_tokens == 0:
            return [one.with_answer_ids(start.tokens.ids[one.prompt_length :]) for one, start in zip(asked, begun, strict=True)]
        prefix = self._prefix_of(begun, max_new_tokens, insist=self._insists)
        if prefix is None:
            return [model.generate(start, max_new_tokens=max_new_tokens) for start in begun]
        rules = Greedy.of(model.model.generation_config, model.image_token_id())

        def answer(group: list[tuple[Encoding, Encoding]]) -> list[Answer]:
            starts = [
                Start(start.tokens.ids, start.tokens.ids[len(prefix) :], 0 if "end" in start.tokens.spans else max_new_tokens)
                for _, start in group
            ]
            with self._explained([start for _, start in group]):
                added = decode(self._continuations(prefix, len(group), max_new_tokens), starts, model.last_logits, rules)
            return [
                one.with_answer_ids((*start.tokens.ids[one.prompt_length :], *new)) for (one, start), new in zip(group, added, strict=True)
            ]

        own = [len(start.tokens) - len(prefix) for start in begun]
        # The first pass takes all prompts at once, and may be no larger than a pass that scores them.
        sizes = [max(length + EXPECTED_ANSWER_TOKENS, length * TOKEN_BUDGET["ask"] // TOKEN_BUDGET["score"]) for length in own]
        return model.room(self.policy, "ask").together(list(zip(asked, begun, strict=True)), sizes, answer)

    def _continuations(self, prefix: Prefix, count: int, steps: int = 0) -> Continuations:
        return POLICIES[self.policy](self._model.model, self._model.backbone, prefix, count, steps)

    def _open(self) -> PreparedImages:
        if self._pictures is None:
            raise SessionClosed("This session is closed. Open another one with model.open(image).")
        return self._pictures

    def _encode(self, question: str) -> Encoding:
        encoding = self._model.encode(self._open(), question, chat=self._chat, template=self._template)
        with self._model.engine.lock:
            first = self._first = self._first or encoding
        return encoding.with_pictures_of(first)

    def _prefix_of(self, encodings: Sequence[Encoding], room: int, *, insist: bool = False) -> Prefix | None:
        """What all of these begin with, read once; None: they are asked alone.

        Args:
            room: tokens that each may get.

        Raises:
            InvalidPolicy: they would be asked alone, and one insists that they are not.
        """
        if self.policy == ALONE or not encodings:
            return None
        with self._model.engine.lock:
            if self._prefix is not None and not self._prefix.model_state.is_of(self._model.model):
                self._prefix = None  # what was read of it is another model's by now
            if self._prefix is None and self._first is not None:
                with self._explained([self._first]):
                    self._prefix = read_prefix(self._model, self._first, self.keep)
            prefix = self._prefix
        longest = max(len(encoding.tokens) for encoding in encodings) + room
        if prefix is not None and longest <= max_rope_length(self._model.model.config) and all(map(prefix.begins, encodings)):
            return prefix
        if insist:
            raise InvalidPolicy(
                f"policy={self.policy!r}: these prompts do not all begin with the same words and images, or are longer than the model's "
                "rotary frequencies are fixed for, so that there is no prefix to share. Put the image before the question, or open the "
                "session without a policy."
            )
        return None

    @contextmanager
    def _explained(self, encodings: Sequence[Encoding]) -> Iterator[None]:
        """What is not finite in a pass over these says where it begins."""
        try:
            yield
        except NotFinite as error:
            raise self._model.explained(error, encodings) from error


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
