"""Session: one image, many questions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import Tensor

from probe.batcher import TOKEN_BUDGET
from probe.encoder import Encoder
from probe.errors import InvalidPolicy, InvalidRead, NotFinite, SessionClosed
from probe.generation import generate
from probe.inputs.encoding import Answer, Encoding, PreparedImages
from probe.inputs.images import ImageLike
from probe.runtime import Batch, Runtime
from probe.sessions.continuations import Continuations, PackedInputs, last_logits
from probe.sessions.decoding.drafting import Continued, Drafting
from probe.sessions.decoding.greedy import Decoding, Greedy, decode
from probe.sessions.gate.choice import Choice, FirstTokens
from probe.sessions.opening import Opening, Together
from probe.sessions.policies import NO_SHARING, chosen_policy
from probe.sessions.prefix import Prefix
from probe.sessions.prefixes import Prefixes
from probe.sessions.shared_trace import readable_after, trace_after
from probe.tokens.spans import TokenMap
from probe.tracing.edits import Edit, EditPlan
from probe.tracing.edits.plan import check_edits
from probe.tracing.edits.stepwise import after_image, tokens_with_answer
from probe.tracing.reads import Module, Read
from probe.tracing.trace import Trace

EXPECTED_ANSWER_TOKENS = 32
"""Tokens that are reserved for an answer when questions are batched; a longer answer still fits."""


class Session:
    """One image (or one list of images) and any number of questions about it. A context manager: closing frees what it holds.

    Where the model's family allows it, the image's part of the prompt runs through the model once, at the first question, and every
    question continues from its KV cache. In float32 the answers are those that each question gets alone; in half precision they are as
    near as another order of sums allows. Images are prepared once.

    Args:
        keep: reads of the image that later traces will want; they are read while the prefix runs. Other reads of the image cost another
            pass over it.
        edits: in force for every question, see `probe.edit`. A prefix under one set of edits is never used under another: edits of the image
            that a question brings run its prefix once more; those that were used last are kept.
        together: other images, whose prefixes may run in the same passes: see `probe.ImageBatch`.
        policy: how questions share the prefix: "packed" (one row after it, separated by a mask), "batched" (a batch, each row after a
            copy of it), "none" (each question alone: right for every model). None: the family's best.

    Raises:
        InvalidRead, InvalidLayer, NoAttention: of `keep`.
        InvalidPolicy: the family, its kernel or its generation settings cannot honour the policy.

    >>> with model.open(image, keep=[probe.Hidden([4], at="image")]) as session:
    ...     answers = session.ask(["Is there a cat in the image?", "Is there a tree in the image?"], max_new_tokens=3)
    ...     traces = session.trace(answers, [probe.Hidden([4], at=("image", "answer"))])
    >>> [trace.hidden("image", layer=4).shape["token"] for trace in traces]
    [196, 196]
    """

    def __init__(
        self,
        runtime: Runtime,
        encoder: Encoder,
        images: ImageLike | Sequence[ImageLike] | PreparedImages | None,
        *,
        keep: tuple[Read, ...] = (),
        edits: tuple[Edit, ...] = (),
        policy: str | None = None,
        chat: bool = True,
        template: str | None = None,
        together: Together | None = None,
    ) -> None:
        self.policy = chosen_policy(runtime, policy)
        self._policy_is_required = policy not in (None, NO_SHARING)
        runtime.resolve(keep)
        prepared = encoder.prepare(images)
        self._opening: Opening | None = Opening(encoder, prepared, encoder.moved_to_device(prepared), keep, chat, template)
        self._runtime, self._encoder, self.keep, self.edits = runtime, encoder, keep, edits
        self._prefixes = Prefixes(runtime, keep, together)
        self._first_tokens = FirstTokens()
        self._seen = Continued()
        self._drafting = Drafting()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the image, the prefix and what was kept of it. The session cannot be used afterwards."""
        self._opening = None
        self._prefixes.clear()

    @property
    def drafting(self) -> Drafting:
        """How many steps drafts have saved so far, in `ask`.

        >>> with model.open(image) as session:
        ...     answers = session.ask(["Is there a cat in the image?"], drafts=["yes, it contains a cat."])
        >>> session.drafting
        Drafting(tokens=19, steps=13, drafted=12, accepted=6)
        """
        return self._drafting

    def ask(
        self,
        questions: Sequence[str],
        *,
        max_new_tokens: int = 64,
        gate: Choice | None = None,
        begin: Sequence[str] | None = None,
        drafts: Sequence[str] | None = None,
        edits: Iterable[Edit] | Edit = (),
    ) -> list[Answer]:
        """Greedy answers, one for each question, in order.

        Args:
            gate: score the first answer token, and generate only where the margin is above the gate's threshold; elsewhere the answer is
                empty. Every answer has its margin.
            begin: for each question, words that its answer starts with.
            drafts: for each question, a text that its answer may follow from its first new token on. It is verified in one pass instead of
                token by token, as is what followed in other answers of this session: see `drafting`. The answers are the same without it.
            edits: in force beside those of the session; "answer" is each new token. Nothing is drafted under edits.

        Raises:
            InvalidEdit, InvalidLayer, NoAttention, SpanNotFound: of an edit.
            SessionClosed: the session was closed.
            InvalidRead: `questions` is one text, `begin` or `drafts` has another length, or `max_new_tokens` is negative.
            NotFinite: logits of the next token hold NaN or infinity.
            InvalidPolicy: a policy was asked for by name, and a prompt has words of its own before the image.
        """
        self._require_open()
        _check_questions(questions)
        _check_count("begin", begin, questions)
        _check_count("drafts", drafts, questions)
        if max_new_tokens < 0:
            raise InvalidRead(f"max_new_tokens={max_new_tokens}: an answer has 0 or more tokens.")
        prompts = [self._encode(question) for question in questions]
        starts = prompts if begin is None else [prompt.with_answer(text) for prompt, text in zip(prompts, begin, strict=True)]
        changes = (*self.edits, *check_edits(edits))
        texts = [""] * len(prompts) if drafts is None or changes else drafts
        begun = [
            _Begun(prompt, start, prompt.answer_ids(text) if text else (), gate is not None)
            for prompt, start, text in zip(prompts, starts, texts, strict=True)
        ]
        if gate is None:
            return self._generate(begun, max_new_tokens, changes)
        margins = self._margins(prompts, gate, changes)
        passing = [number for number, margin in enumerate(margins) if margin > gate.threshold]
        generated = dict(zip(passing, self._generate([begun[number] for number in passing], max_new_tokens, changes), strict=True))
        return [
            replace(generated.get(number) or prompt.with_answer_ids(()), margin=margins[number]) for number, prompt in enumerate(prompts)
        ]

    def answer(self, questions: Sequence[str], texts: Sequence[str]) -> list[Answer]:
        """The questions with given answers, for teacher forcing."""
        _check_questions(questions)
        _check_count("texts", texts, questions)
        return [self._encode(question).with_answer(text) for question, text in zip(questions, texts, strict=True)]

    def trace(self, answers: Sequence[Answer], reads: Iterable[Read], *, edits: Iterable[Edit] | Edit = ()) -> list[Trace]:
        """For each answer the Trace of one teacher-forced pass. Passes are shared as questions are; image states come from the prefix.

        Answers that this session did not encode, and reads within the prefix that are not states (attention from it, its logits), cost a pass
        each. Traces share the prefix's tensors with each other: clone what you write to.

        Raises:
            SessionClosed: the session was closed.
            ProbeError: what `Probe.run` raises.
        """
        self._require_open()
        asked, changes = tuple(reads), (*self.edits, *check_edits(edits))
        tokens = [answer.tokens for answer in answers]
        self._check_edits(changes, tokens)
        prefix = self._prefix_of(answers, tokens, changes)
        if prefix is None or not readable_after(self._runtime, prefix, answers, asked):
            return [self._runtime.run(Batch.of(answer), asked, changes) for answer in answers]

        def trace_batch(batch: list[Answer]) -> list[Trace]:
            with self._completing_not_finite(batch, changes):
                return trace_after(self._runtime, self.policy, prefix, batch, asked, changes)

        return self._runtime.batcher(self.policy, "trace").map(answers, _own_lengths(answers, prefix), trace_batch)

    def _check_edits(self, edits: tuple[Edit, ...], tokens: Sequence[TokenMap]) -> None:
        for one in tokens if edits else ():
            self._runtime.resolve_edits(edits, (one,))

    def _margins(self, prompts: Sequence[Encoding], gate: Choice, edits: tuple[Edit, ...]) -> list[float]:
        """The gate's margin of each prompt."""
        runtime = self._runtime
        tokens = list(map(_before_answer, prompts))
        self._check_edits(edits, tokens)
        prefix = self._prefix_of(prompts, tokens, edits, required=self._policy_is_required)

        def margins(batch: Sequence[Encoding], logits: Tensor) -> list[float]:
            with self._completing_not_finite(batch, edits):
                return gate.margins(batch, logits, self._first_tokens)

        if prefix is None:
            return [margins([prompt], runtime.next_logits(prompt, edits)[None])[0] for prompt in prompts]

        def score_batch(batch: list[Encoding]) -> list[float]:
            packed = self._continuations(prefix, len(batch)).next_inputs([prompt.tokens.ids[len(prefix) :] for prompt in batch])
            return margins(batch, last_logits(runtime, packed, self._plan(edits, map(_before_answer, batch))))

        return runtime.batcher(self.policy, "score").map(prompts, _own_lengths(prompts, prefix), score_batch)

    def _plan(self, edits: tuple[Edit, ...], tokens: Iterable[TokenMap]) -> EditPlan | None:
        """The edits of a pass after the prefix; None: it has none."""
        after = after_image(edits)
        return self._runtime.resolve_edits(after, tuple(tokens)) if after else None

    def _generate(self, begun: Sequence[_Begun], max_new_tokens: int, edits: tuple[Edit, ...]) -> list[Answer]:
        """Greedy answers to prompts, some with the words that their answers start with."""
        runtime, starts = self._runtime, [one.start for one in begun]
        if max_new_tokens == 0:
            return [one.answered(()) for one in begun]
        tokens = list(map(_before_answer, starts))
        self._check_edits(edits, tokens)
        prefix = self._prefix_of(starts, tokens, edits, new_tokens=max_new_tokens, required=self._policy_is_required)
        if prefix is None:
            return [generate(runtime, self._encoder, start, edits=edits, max_new_tokens=max_new_tokens) for start in starts]
        rules = Greedy.of(runtime.model.generation_config, runtime.modules.image_token_id)

        def next_logits(packed: PackedInputs, active: Sequence[Decoding], counts: Sequence[int]) -> Tensor:
            return last_logits(runtime, packed, self._plan(edits, (one.tokens_so_far for one in active)), counts)

        def answer_batch(batch: list[_Begun]) -> list[Answer]:
            sequences = [one.decoding(prefix, max_new_tokens) for one in batch]
            with self._completing_not_finite([one.start for one in batch], edits):
                continuations = self._continuations(prefix, len(batch), max_new_tokens)
                added = decode(continuations, sequences, next_logits, rules, with_keys=bool(edits), seen=self._seen)
            self._drafting += sum((one.drafting for one in sequences), Drafting())
            return [one.answered(new) for one, new in zip(batch, added, strict=True)]

        # The first pass takes all prompts at once, and may be no larger than a pass that scores them.
        first_pass = TOKEN_BUDGET["ask"] / TOKEN_BUDGET["score"]
        sizes = [max(length + EXPECTED_ANSWER_TOKENS, int(length * first_pass)) for length in _own_lengths(starts, prefix)]
        return runtime.batcher(self.policy, "ask").map(begun, sizes, answer_batch)

    def _continuations(self, prefix: Prefix, count: int, steps: int = 0) -> Continuations:
        return Continuations(self._runtime, self.policy, [prefix], [0] * count, steps)

    def _require_open(self) -> Opening:
        if self._opening is None:
            raise SessionClosed("This session is closed. Open another one with model.open(image).")
        return self._opening

    def _encode(self, question: str) -> Encoding:
        opening = self._require_open()
        encoding = opening.encode(question)
        with self._runtime.engine.lock:
            first = self._prefixes.begin(opening, question, encoding)
        return encoding.with_images_of(first)

    def _prefix_of(
        self,
        encodings: Sequence[Encoding],
        tokens: Sequence[TokenMap],
        edits: tuple[Edit, ...],
        *,
        new_tokens: int = 0,
        required: bool = False,
    ) -> Prefix | None:
        """The common prefix of all of these, run once under these edits; None: each is run alone.

        Args:
            tokens: of each, as edits name them.
            new_tokens: the most tokens that each may get.

        Raises:
            InvalidPolicy: they share none, and one is required.
        """
        if self.policy == NO_SHARING or not encodings:
            return None
        if any(isinstance(edit.read, Module) for edit in edits):
            prefix, reason = None, "edits of a Module need each question alone. Open the session without a policy."
        else:
            with self._runtime.engine.lock, self._completing_not_finite(encodings[:1], edits):
                prefix, reason = self._prefixes.common(encodings, tokens, new_tokens, edits)
        if prefix is None and required:
            raise InvalidPolicy(f"policy={self.policy!r}: {reason}")
        return prefix

    @contextmanager
    def _completing_not_finite(self, encodings: Sequence[Encoding], edits: tuple[Edit, ...]) -> Iterator[None]:
        """Complete a NotFinite of a pass over these encodings by the layer where it begins."""
        try:
            yield
        except NotFinite as error:
            batches = [Batch.of(encoding) for encoding in encodings]
            raise self._runtime.not_finite_with_layer(error, batches, edits) from error


@dataclass(frozen=True)
class _Begun:
    """A prompt that is to be answered.

    Attributes:
        prompt: alone.
        start: with the words that its answer starts with.
        draft: the ids that its answer may follow from there on.
        expected: whether it probably does.
    """

    prompt: Encoding
    start: Encoding
    draft: tuple[int, ...]
    expected: bool

    def decoding(self, prefix: Prefix, max_new_tokens: int) -> Decoding:
        """The sequence to decode after a prefix."""
        start, ids = self.start, self.start.tokens.ids
        remaining = 0 if "end" in start.tokens.spans else max_new_tokens
        return Decoding(start.tokens, start.prompt_length, ids, ids[len(prefix) :], remaining, self.draft, self.expected)

    def answered(self, ids: tuple[int, ...]) -> Answer:
        """The answer with these new tokens."""
        return self.prompt.with_answer_ids((*self.start.tokens.ids[self.prompt.prompt_length :], *ids))


def _before_answer(prompt: Encoding) -> TokenMap:
    """The tokens of a prompt whose answer is to be generated: "answer" is empty, or the words that it begins with."""
    return tokens_with_answer(prompt.tokens, prompt.prompt_length, prompt.tokens.ids)


def _own_lengths(encodings: Sequence[Encoding], prefix: Prefix) -> list[int]:
    """The tokens of each that the prefix does not have."""
    return [len(encoding.tokens) - len(prefix) for encoding in encodings]


def _check_questions(questions: Sequence[str]) -> None:
    if isinstance(questions, str):
        raise InvalidRead(f"questions={questions!r} is one text. Pass a list of questions: [{questions!r}].")


def _check_count(name: str, given: Sequence[str] | None, questions: Sequence[str]) -> None:
    if given is not None and len(given) != len(questions):
        raise InvalidRead(f"{name}= has {len(given)} entries for {len(questions)} questions. Give one for each.")
