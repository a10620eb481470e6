"""Greedy answers to questions about the images of one session or of several, in passes that they share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from probe.batcher import TOKEN_BUDGET
from probe.generation import generate
from probe.inputs.encoding import Answer, Encoding
from probe.runtime import Runtime
from probe.sessions.continuations import PackedInputs, last_logits
from probe.sessions.decoding.greedy import Decoding, Greedy, decode
from probe.sessions.gate.choice import Choice
from probe.sessions.shared.passes import Lot, Pass, completing_not_finite, lots_of, run_lots
from probe.sessions.state import SessionState
from probe.tokens.spans import TokenMap
from probe.tracing.edits import Edit, EditPlan
from probe.tracing.edits.stepwise import after_image, tokens_with_answer

EXPECTED_ANSWER_TOKENS = 32
"""Tokens that are reserved for an answer when questions are batched; a longer answer still fits."""


@dataclass(frozen=True, eq=False)
class Begun:
    """A prompt that is to be answered.

    Attributes:
        state: of its session.
        prompt: alone.
        start: with the words that its answer starts with.
        draft: the ids that its answer may follow from there on.
        expected: whether it probably does.
    """

    state: SessionState
    prompt: Encoding
    start: Encoding
    draft: tuple[int, ...]
    expected: bool

    @classmethod
    def of(cls, state: SessionState, question: str, begin: str | None, draft: str, *, expected: bool) -> Begun:
        """A question.

        Args:
            begin: the words that its answer starts with; None: there are none.
            draft: the text that its answer may follow from there on.
        """
        prompt = state.encode(question)
        start = prompt if begin is None else prompt.with_answer(begin)
        return cls(state, prompt, start, prompt.answer_ids(draft) if draft else (), expected)

    def decoding(self, shared: int, max_new_tokens: int) -> Decoding:
        """The sequence to decode after a prefix of so many tokens."""
        start, ids = self.start, self.start.tokens.ids
        remaining = 0 if "end" in start.tokens.spans else max_new_tokens
        return Decoding(start.tokens, start.prompt_length, ids, ids[shared:], remaining, self.draft, self.state.seen, self.expected)

    def answered(self, ids: tuple[int, ...]) -> Answer:
        """The answer with these new tokens."""
        return self.prompt.with_answer_ids((*self.start.tokens.ids[self.prompt.prompt_length :], *ids))


def ask(begun: Sequence[Begun], max_new_tokens: int, gate: Choice | None, edits: tuple[Edit, ...]) -> list[Answer]:
    """Greedy answers, one for each question, in order; see `Session.ask`."""
    if gate is None:
        return _generate(begun, max_new_tokens, edits)
    margins = _margins(begun, gate, edits)
    passing = [number for number, margin in enumerate(margins) if margin > gate.threshold]
    generated = dict(zip(passing, _generate([begun[number] for number in passing], max_new_tokens, edits), strict=True))
    return [replace(generated.get(number) or one.prompt.with_answer_ids(()), margin=margins[number]) for number, one in enumerate(begun)]


def _margins(begun: Sequence[Begun], gate: Choice, edits: tuple[Edit, ...]) -> list[float]:
    """The gate's margin of each prompt."""
    if not begun:
        return []
    runtime, first_tokens = begun[0].state.runtime, begun[0].state.first_tokens

    def lot_of(state: SessionState, numbers: Sequence[int], prompts: Sequence[Encoding]) -> Lot[Encoding]:
        tokens, changes = list(map(_before_answer, prompts)), (*state.edits, *edits)
        state.check_edits(changes, tokens)
        return Lot(state.policy, state.prefix_of(prompts, tokens, changes), changes, numbers, prompts, tokens)

    def margins(batch: Sequence[Encoding], logits: Tensor, changes: tuple[Edit, ...]) -> list[float]:
        with completing_not_finite(runtime, batch, changes):
            return gate.margins(batch, logits, first_tokens)

    def alone(prompt: Encoding, changes: tuple[Edit, ...]) -> float:
        return margins([prompt], runtime.next_logits(prompt, changes)[None], changes)[0]

    def together(batch: Pass[Encoding]) -> list[float]:
        packed = batch.continuations().next_inputs(
            [prompt.tokens.ids[shared:] for prompt, shared in zip(batch.items, batch.shared, strict=True)]
        )
        plan = _plan(runtime, batch.edits, map(_before_answer, batch.items))
        return margins(batch.items, last_logits(runtime, packed, plan), batch.edits)

    return run_lots(runtime, "score", lots_of([(one.state, one.prompt) for one in begun], lot_of), alone, together)


def _generate(begun: Sequence[Begun], max_new_tokens: int, edits: tuple[Edit, ...]) -> list[Answer]:
    """Greedy answers to prompts, some with the words that their answers start with."""
    if max_new_tokens == 0 or not begun:
        return [one.answered(()) for one in begun]
    runtime = begun[0].state.runtime
    rules = Greedy.of(runtime.model.generation_config, runtime.modules.image_token_id)

    def lot_of(state: SessionState, numbers: Sequence[int], items: Sequence[Begun]) -> Lot[Begun]:
        starts, changes = [one.start for one in items], (*state.edits, *edits)
        tokens = list(map(_before_answer, starts))
        state.check_edits(changes, tokens)
        return Lot(state.policy, state.prefix_of(starts, tokens, changes, new_tokens=max_new_tokens), changes, numbers, items, tokens)

    def alone(one: Begun, changes: tuple[Edit, ...]) -> Answer:
        return generate(runtime, one.state.encoder, one.start, edits=changes, max_new_tokens=max_new_tokens)

    def together(batch: Pass[Begun]) -> list[Answer]:
        def next_logits(packed: PackedInputs, active: Sequence[Decoding], counts: Sequence[int]) -> Tensor:
            return last_logits(runtime, packed, _plan(runtime, batch.edits, (one.tokens_so_far for one in active)), counts)

        sequences = [one.decoding(shared, max_new_tokens) for one, shared in zip(batch.items, batch.shared, strict=True)]
        with completing_not_finite(runtime, [one.start for one in batch.items], batch.edits):
            added = decode(batch.continuations(max_new_tokens), sequences, next_logits, rules, with_keys=bool(batch.edits))
        for one, sequence in zip(batch.items, sequences, strict=True):
            one.state.drafting += sequence.drafting
        return [one.answered(new) for one, new in zip(batch.items, added, strict=True)]

    # The first pass takes all prompts at once, and may be no larger than a pass that scores them.
    first_pass = TOKEN_BUDGET["ask"] / TOKEN_BUDGET["score"]
    size = lambda length: max(length + EXPECTED_ANSWER_TOKENS, int(length * first_pass))  # noqa: E731
    return run_lots(runtime, "ask", lots_of([(one.state, one) for one in begun], lot_of), alone, together, size)


def _plan(runtime: Runtime, edits: tuple[Edit, ...], tokens: Iterable[TokenMap]) -> EditPlan | None:
    """The edits of a pass after the prefix; None: it has none."""
    after = after_image(edits)
    return runtime.resolve_edits(after, tuple(tokens)) if after else None


def _before_answer(prompt: Encoding) -> TokenMap:
    """The tokens of a prompt whose answer is to be generated: "answer" is empty, or the words that it begins with."""
    return tokens_with_answer(prompt.tokens, prompt.prompt_length, prompt.tokens.ids)
