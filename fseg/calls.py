"""Calls: what the work on one image asks of the language model, so that the calls of several images can share passes.

Work on an image is a generator that yields its calls and is sent what they gave. It is written as if there were no other image.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, ClassVar, Protocol, TypeVar

import probe

Item = TypeVar("Item")
Returned = TypeVar("Returned")
Answered = TypeVar("Answered")


class _Call(Protocol):
    """Something that is asked of the session of one image.

    Attributes:
        last: whether it waits for calls of other kinds, after which more of its own kind may come.
    """

    last: ClassVar[bool]

    def alone(self) -> Sequence[Any]:
        """What it gives."""

    def joins(self, other: Any) -> bool:
        """Whether it may run together with another call."""

    def together(self, calls: Sequence[Any]) -> list[list[Any]]:
        """What it and other calls give, each as it does alone, in shared passes."""


Steps = Generator[_Call, Any, Returned]
"""Work on one image: it yields its calls and is sent what they gave."""


@dataclass(frozen=True, eq=False)
class _Asking:
    last: ClassVar[bool] = False

    session: probe.Session
    questions: Sequence[str]
    max_new_tokens: int
    gate: probe.Choice | None
    begin: Sequence[str] | None
    drafts: Sequence[str] | None

    def alone(self) -> list[probe.Answer]:
        return self.session.ask(self.questions, max_new_tokens=self.max_new_tokens, gate=self.gate, begin=self.begin, drafts=self.drafts)

    def joins(self, other: object) -> bool:
        return isinstance(other, _Asking) and self._kind == other._kind

    @property
    def _kind(self) -> tuple[object, ...]:
        return self.max_new_tokens, self.gate, self.begin is None, self.drafts is None

    def together(self, calls: Sequence[_Asking]) -> list[list[probe.Answer]]:
        answers = probe.ask_together(
            [(call.session, question) for call in calls for question in call.questions],
            max_new_tokens=self.max_new_tokens,
            gate=self.gate,
            begin=None if self.begin is None else [text for call in calls for text in call.begin or ()],
            drafts=None if self.drafts is None else [text for call in calls for text in call.drafts or ()],
        )
        return _split(answers, [len(call.questions) for call in calls])


@dataclass(frozen=True, eq=False)
class _Tracing:
    last: ClassVar[bool] = True  # an answer that does not name its class is asked for again

    session: probe.Session
    answers: Sequence[probe.Answer]
    reads: Sequence[probe.Read]

    def alone(self) -> list[probe.Trace]:
        return self.session.trace(self.answers, self.reads)

    def joins(self, other: object) -> bool:
        return isinstance(other, _Tracing) and list(self.reads) == list(other.reads)

    def together(self, calls: Sequence[_Tracing]) -> list[list[probe.Trace]]:
        traces = probe.trace_together([(call.session, answer) for call in calls for answer in call.answers], self.reads)
        return _split(traces, [len(call.answers) for call in calls])


def ask(
    session: probe.Session,
    questions: Sequence[str],
    *,
    max_new_tokens: int,
    gate: probe.Choice | None = None,
    begin: Sequence[str] | None = None,
    drafts: Sequence[str] | None = None,
) -> Steps[list[probe.Answer]]:
    """The answers of `Session.ask`."""
    answers: list[probe.Answer] = yield _Asking(session, questions, max_new_tokens, gate, begin, drafts)
    return answers


def trace(session: probe.Session, answers: Sequence[probe.Answer], reads: Sequence[probe.Read]) -> Steps[list[probe.Trace]]:
    """The traces of `Session.trace`."""
    traces: list[probe.Trace] = yield _Tracing(session, answers, reads)
    return traces


def complete(steps: Steps[Returned]) -> Returned:
    """What the work on one image returns.

    Raises:
        Exception: what the work raises.
    """
    (result,) = complete_together([steps])
    if isinstance(result, Exception):
        raise result
    return result


def complete_together(work: Sequence[Steps[Returned]]) -> list[Returned | Exception]:
    """What the work on each of several images returns or raises. Their calls run together, as often as they wait for calls of one kind."""
    results: dict[int, Returned | Exception] = {}
    waiting: dict[int, _Call] = {}

    def resume(number: int, advance: Callable[[], _Call]) -> None:
        try:
            waiting[number] = advance()
        except StopIteration as end:
            results[number] = end.value
        except Exception as error:
            results[number] = error

    for number, steps in enumerate(work):
        resume(number, partial(next, steps))
    while waiting:
        first = min(waiting.values(), key=lambda call: call.last)
        calls = {number: call for number, call in waiting.items() if first.joins(call)}
        for number in calls:
            del waiting[number]
        for number, given in zip(calls, _given(list(calls.values())), strict=True):
            resume(number, partial(work[number].throw, given) if isinstance(given, Exception) else partial(work[number].send, given))
    return [results[number] for number in range(len(work))]


def after(future: Future[Item], steps: Callable[[Item], Steps[Returned]]) -> Steps[Returned]:
    """The work on what a future gives, as work on one image; it raises what the future raises."""
    return (yield from steps(future.result()))


def _given(calls: Sequence[_Call]) -> list[Sequence[Any] | Exception]:
    """What each call gives, or its error."""
    if len(calls) > 1:
        with suppress(Exception):  # one of them is at fault: alone each gives its own, or says what is wrong with it
            return [*calls[0].together(calls)]
    return [_attempt(call) for call in calls]


def _attempt(call: _Call) -> Sequence[Any] | Exception:
    try:
        return call.alone()
    except Exception as error:
        return error


def _split(values: Sequence[Answered], sizes: Sequence[int]) -> list[list[Answered]]:
    return [list(values[start:stop]) for start, stop in pairwise(accumulate(sizes, initial=0))]
