"""Session: one image, many questions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from probe.encoder import Encoder
from probe.errors import InvalidRead
from probe.inputs.encoding import Answer, PreparedImages
from probe.inputs.images import ImageLike
from probe.runtime import Runtime
from probe.sessions.decoding.drafting import Drafting
from probe.sessions.gate.choice import Choice
from probe.sessions.opening import Opening, Together
from probe.sessions.policies import NO_SHARING, chosen_policy
from probe.sessions.prefixes import Prefixes
from probe.sessions.shared.asking import Begun, ask
from probe.sessions.shared.tracing import trace
from probe.sessions.state import SessionState
from probe.tracing.edits import Edit
from probe.tracing.edits.plan import check_edits
from probe.tracing.reads import Read
from probe.tracing.trace import Trace


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
        runtime.resolve(keep)
        prepared = encoder.prepare(images)
        opening = Opening(encoder, prepared, encoder.moved_to_device(prepared), keep, chat, template)
        self.keep, self.edits = keep, edits
        self._state = SessionState(
            runtime,
            encoder,
            opening,
            Prefixes(runtime, keep, together),
            edits,
            self.policy,
            required=policy not in (None, NO_SHARING),
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the image, the prefix and what was kept of it. The session cannot be used afterwards."""
        self._state.close()

    @property
    def drafting(self) -> Drafting:
        """How many steps drafts have saved so far, in `ask`.

        >>> with model.open(image) as session:
        ...     answers = session.ask(["Is there a cat in the image?"], drafts=["yes, it contains a cat."])
        >>> session.drafting
        Drafting(tokens=19, steps=13, drafted=12, accepted=6)
        """
        return self._state.drafting

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
        self._state.require_open()
        _check_questions(questions)
        asked = [(self, question) for question in questions]
        return ask_together(asked, max_new_tokens=max_new_tokens, gate=gate, begin=begin, drafts=drafts, edits=edits)

    def answer(self, questions: Sequence[str], texts: Sequence[str]) -> list[Answer]:
        """The questions with given answers, for teacher forcing."""
        _check_questions(questions)
        _check_count("texts", texts, questions)
        return [self._state.encode(question).with_answer(text) for question, text in zip(questions, texts, strict=True)]

    def trace(self, answers: Sequence[Answer], reads: Iterable[Read], *, edits: Iterable[Edit] | Edit = ()) -> list[Trace]:
        """For each answer the Trace of one teacher-forced pass. Passes are shared as questions are; image states come from the prefix.

        Answers that this session did not encode, and reads within the prefix that are not states (attention from it, its logits), cost a pass
        each. Traces share the prefix's tensors with each other: clone what you write to.

        Raises:
            SessionClosed: the session was closed.
            ProbeError: what `Probe.run` raises.
        """
        self._state.require_open()
        return trace_together([(self, answer) for answer in answers], reads, edits=edits)


def ask_together(
    asked: Sequence[tuple[Session, str]],
    *,
    max_new_tokens: int = 64,
    gate: Choice | None = None,
    begin: Sequence[str] | None = None,
    drafts: Sequence[str] | None = None,
    edits: Iterable[Edit] | Edit = (),
) -> list[Answer]:
    """Greedy answers to questions about the images of several sessions of one model, in order, each as `Session.ask` gives it.

    Questions about an image are answered after its own prefix, those of several images in shared passes, where no prefix is
    shorter than half of the longest there. Each has as many questions in a pass as it would have alone. If memory runs out, half as many images
    are tried. The first such pass is compared with images alone; a warning says if they have to run one by one. Where rows of a batch
    change each other, where blocks hold states beside keys and values, and under edits, they run so anyway.

    Args:
        asked: sessions, each with a question.
        max_new_tokens, gate, begin, drafts, edits: see `Session.ask`.

    Raises:
        InvalidRead: the sessions are of several models; and what `Session.ask` raises.

    >>> images = [model.prepare(one) for one in (image, image.rotate(90))]
    >>> with model.open(images[0]) as first, model.open(images[1]) as second:
    ...     answers = probe.ask_together([(first, "Is there a cat in the image?"), (second, "Is there a clock in the image?")], max_new_tokens=4)
    >>> [answer.text for answer in answers]
    ['yes, it contains', 'No.']
    """
    _check_sessions(asked)
    questions = [question for _, question in asked]
    _check_count("begin", begin, questions)
    _check_count("drafts", drafts, questions)
    if max_new_tokens < 0:
        raise InvalidRead(f"max_new_tokens={max_new_tokens}: an answer has 0 or more tokens.")
    changes = check_edits(edits)
    begun = [
        Begun.of(
            session._state,
            question,
            None if begin is None else begin[number],
            "" if drafts is None or changes or session.edits else drafts[number],
            expected=gate is not None,
        )
        for number, (session, question) in enumerate(asked)
    ]
    return ask(begun, max_new_tokens, gate, changes)


def trace_together(answered: Sequence[tuple[Session, Answer]], reads: Iterable[Read], *, edits: Iterable[Edit] | Edit = ()) -> list[Trace]:
    """For each answer about the images of several sessions of one model the Trace that `Session.trace` gives it. Passes are shared as in
    `ask_together`.

    Args:
        answered: sessions, each with an answer.

    Raises:
        InvalidRead: the sessions are of several models; and what `Session.trace` raises.

    >>> reads = [probe.Hidden([4], at="answer")]
    >>> with model.open(image) as first, model.open(image.rotate(90)) as second:
    ...     answered = [(one, one.answer(["Is there a cat in the image?"], ["No."])[0]) for one in (first, second)]
    ...     traces = probe.trace_together(answered, reads)
    >>> [trace.hidden("answer", layer=4).shape["token"] for trace in traces]
    [2, 2]
    """
    _check_sessions(answered)
    return trace([(session._state, answer) for session, answer in answered], tuple(reads), check_edits(edits))


def _check_sessions(given: Sequence[tuple[Session, object]]) -> None:
    """Refuse sessions of several models.

    Raises:
        InvalidRead, SessionClosed.
    """
    models = {id(session._state.runtime) for session, _ in given}
    if len(models) > 1:
        raise InvalidRead(f"Sessions of {len(models)} models share no pass. Ask those of each model by themselves.")
    for session, _ in given:
        session._state.require_open()


def _check_questions(questions: Sequence[str]) -> None:
    if isinstance(questions, str):
        raise InvalidRead(f"questions={questions!r} is one text. Pass a list of questions: [{questions!r}].")


def _check_count(name: str, given: Sequence[str] | None, questions: Sequence[str]) -> None:
    if given is not None and len(given) != len(questions):
        raise InvalidRead(f"{name}= has {len(given)} entries for {len(questions)} questions. Give one for each.")
