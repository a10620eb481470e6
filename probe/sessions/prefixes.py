"""Prefixes: what the prompts of a session begin with, run once for each set of changes that edits make in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import DynamicCache

from probe.inputs.encoding import Encoding
from probe.runtime import Runtime
from probe.sessions.kv_cache import empty_cache
from probe.sessions.opening import Opening, Together
from probe.sessions.prefix import Prefix, max_rope_length
from probe.tokens.spans import Span, TokenMap
from probe.tracing.capturing.captured import Captured
from probe.tracing.edits import Edit
from probe.tracing.edits.stepwise import PrefixChange, changes_before
from probe.tracing.engine import Forward
from probe.tracing.hooks import ModelState
from probe.tracing.reads import Projected, Read, StateRead, Vision
from probe.tracing.resolving import ReadPlan
from probe.tracing.slots import SequenceSlot

PREFIXES = 4
"""Prefixes that a session holds at most, each with its KV cache: unedited or under edits, those that were used last."""

_NOTHING_SHARED = (
    "these prompts do not all begin with the same words and images, or are longer than the model's rotary frequencies are fixed for, so that "
    "there is no prefix to share. Put the image before the question, or open the session without a policy."
)


class Prefixes:
    """The prefixes of one session.

    Args:
        keep: reads; what they name within a prefix is captured while it runs.
        together: other images, whose prefixes may run in the same passes.

    Attributes:
        first: the session's first prompt, whose image tensors the others share.
    """

    def __init__(self, runtime: Runtime, keep: Sequence[Read], together: Together | None = None) -> None:
        self._runtime, self._keep, self._together = runtime, keep, together
        self.first: Encoding | None = None
        self._asked: tuple[Opening, str] | None = None  # the first question, while others may run with it
        self._length = 0  # 0: not known yet
        self._by_changes: dict[tuple[PrefixChange, ...], Prefix] = {}  # the one that was used last is the last

    def clear(self) -> None:
        """Free them all."""
        self.first, self._length, self._asked, self._together = None, 0, None, None
        self._by_changes.clear()

    def begin(self, opening: Opening, question: str, encoding: Encoding) -> Encoding:
        """The session's first prompt: this one, unless there is one already."""
        if self.first is None:
            self.first, self._asked = encoding, (opening, question)
        return self.first

    def common(
        self, encodings: Sequence[Encoding], tokens: Sequence[TokenMap], new_tokens: int, edits: Sequence[Edit]
    ) -> tuple[Prefix | None, str]:
        """The prefix of all of these prompts, run under these edits if it has not been; or why there is none.

        Args:
            tokens: of each, as edits name them.
            new_tokens: the most tokens that each may get.
        """
        first, longest = self.first, max(len(encoding.tokens) for encoding in encodings) + new_tokens
        if first is None or longest > max_rope_length(self._runtime.model.config) or not self._find_length(first, encodings):
            return None, _NOTHING_SHARED
        changes = {changes_before(edits, one, self._length) for one in tokens}
        if len(changes) > 1:
            return None, "an edit changes other positions of the prefix in one question than in another. Ask them one by one."
        prefix = self._under(changes.pop(), first, encodings[0], tokens[0])
        return (prefix, "") if all(map(prefix.begins, encodings)) else (None, _NOTHING_SHARED)

    def _under(self, changes: tuple[PrefixChange, ...], first: Encoding, encoding: Encoding, tokens: TokenMap) -> Prefix:
        """The prefix under these changes, run if it is not known yet."""
        prefix = self._by_changes.pop(changes, None)
        if prefix is not None and not prefix.model_state.is_of(self._runtime.model):
            self._by_changes.clear()  # the model has been changed since
            prefix = None
        if prefix is None and not changes:
            prefix = self._with_others(first)
        if prefix is None:
            before = tuple(edit for edit, _ in changes)
            prefix = read_prefix(self._runtime, encoding if before else first, self._length, self._keep, before, tokens)
        self._by_changes[changes] = prefix
        while len(self._by_changes) > PREFIXES:
            del self._by_changes[next(iter(self._by_changes))]
        return prefix

    def _with_others(self, first: Encoding) -> Prefix | None:
        """The unedited prefix, run with those of other images; None: there are none, or they cannot share a pass."""
        if self._together is None or self._asked is None:
            return None
        (opening, question), self._asked = self._asked, None
        begun = self._together.take(opening)
        if begun is None:
            return self._together.read(self._runtime, opening, question, first, self._length)
        if len(begun) > self._length or first.tokens.ids[: len(begun)] != begun.tokens.ids:
            return None
        self._length = len(begun)
        return begun.with_images_of(first)

    def _find_length(self, first: Encoding, encodings: Sequence[Encoding]) -> bool:
        """Find out how much these prompts share with the first one; whether that has its images, in a family that takes them.

        A question may change the token before it, where a tokenizer joins the two: the prefixes are read again without that token.
        """
        known = self._length or prefix_length(first)
        length = min([known, *(_common_length(first, encoding, known) for encoding in encodings)])
        takes_images = self._runtime.modules.image_token_id is not None
        if not 0 < (image_end(first) if takes_images else length) <= length:
            return False
        if length < known:
            self._by_changes.clear()
        self._length = length
        return True


def prefix_length(encoding: Encoding) -> int:
    """The tokens of a prompt that do not depend on its question, its images included: those before the question, if that comes later."""
    end, question = image_end(encoding), encoding.tokens.spans.get("question")
    if question is None or question.positions[0] < end:
        return end
    return question.positions[0]


def image_end(encoding: Encoding) -> int:
    """The tokens of a prompt up to those that close its last image, which some models give features or positions of the image; 0: it has none."""
    spans, tokens = encoding.tokens.spans, encoding.tokens
    if "image" not in spans:
        return 0
    end = spans["image"].positions[-1] + 1
    question = set(spans["question"].positions) if "question" in spans else set()
    while end < encoding.prompt_length - 1 and tokens.ids[end] in tokens.special and end not in question:
        end += 1
    return end


def _common_length(one: Encoding, other: Encoding, most: int) -> int:
    """How many tokens two prompts begin with alike, at least one fewer than the other has."""
    if most < len(other.tokens) and one.tokens.ids[:most] == other.tokens.ids[:most]:
        return most
    pairs = zip(one.tokens.ids[:most], other.tokens.ids[:-1], strict=False)
    return next((number for number, (a, b) in enumerate(pairs) if a != b), min(most, len(other.tokens) - 1))


def read_prefix(
    runtime: Runtime, encoding: Encoding, length: int, keep: Sequence[Read], edits: Sequence[Edit] = (), known: TokenMap | None = None
) -> Prefix:
    """Run the model over the beginning of a prompt: the prefix with its KV cache.

    Args:
        length: its tokens.
        keep: reads; what they name within the prefix is captured in the same pass, the rest is left out.
        edits: of the prefix; what they name behind it is left out.
        known: the tokens of the prompt as edits name them; None: the encoding's.
    """
    prefix, plan = unread_prefix(runtime, encoding, length, keep, edits, known)
    run_prefix(runtime, prefix, plan, prefix.cache)
    return replace(prefix, position=runtime.backbone.next_position(runtime.model, length))


def unread_prefix(
    runtime: Runtime, encoding: Encoding, length: int, keep: Sequence[Read], edits: Sequence[Edit] = (), known: TokenMap | None = None
) -> tuple[Prefix, ReadPlan]:
    """A prefix before it is run, with an empty cache, and the plan of what is kept of it: see `read_prefix`."""
    inputs = {name: value[:, :length] if name in encoding.token_inputs else value for name, value in encoding.inputs.items()}
    spans = {name: span for name, span in encoding.tokens.spans.items() if all(position < length for position in span.positions)}
    tokens = replace(encoding.tokens, ids=encoding.tokens.ids[:length], spans=spans)
    changes = runtime.resolve_edits(edits, (known or encoding.tokens,))
    plan = runtime.resolve([part for read in keep if (part := _within(read, spans)) is not None], (tokens,))
    return Prefix(tokens, inputs, empty_cache(runtime.model.config), 0, ModelState(runtime.model), changes), plan


def _within(read: Read, spans: Mapping[str, Span]) -> Read | None:
    """The part of a read of states that names these spans; None: nothing of it."""
    match read:
        case StateRead(_, at) if at is not None:
            positions = at if isinstance(at, tuple) else (at,)
            known = tuple(position for position in positions if isinstance(position, str) and position in spans)
            return replace(read, at=known) if known else None
        case Vision() | Projected():
            return read
    return None


def run_prefix(runtime: Runtime, prefix: Prefix, plan: ReadPlan, cache: DynamicCache | None = None) -> None:
    """Run the model over the prefix: capture what is planned, and fill the cache if one is given."""
    if plan.states or plan.vision or prefix.edits.edits:
        forward = filling_forward(runtime, cache)
        captured = runtime.engine.run(forward, prefix.inputs, plan, (SequenceSlot(0),), edits=prefix.edits, run_to_end=cache is not None)
        keep_captured(prefix, captured, plan)
    elif cache is not None:
        with torch.no_grad():
            filling_forward(runtime, cache)(prefix.inputs)


def filling_forward(runtime: Runtime, cache: DynamicCache | None) -> Forward[Mapping[str, Tensor]]:
    """A forward over prefixes that fills a cache, if one is given, and computes no more logits than it has to."""
    filling: dict[str, object] = {} if cache is None else {runtime.cache_argument: cache, "use_cache": True, "logits_to_keep": 1}
    return lambda inputs: runtime.forward(inputs, **filling)


def keep_captured(prefix: Prefix, captured: Captured, plan: ReadPlan) -> None:
    """Keep what was captured of one prefix with it."""
    prefix.vision.update(captured.vision)
    for (address, position), (states,) in captured.states.items():
        prefix.states[address, plan.positions[position][0]] = states
