"""CleanRun: the unedited forward of one sequence, from whose states and KV cache edited forwards go on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.utils import ModelOutput

from probe.runtime import Batch, Runtime
from probe.sessions.continuations import Continuations, PackedInputs
from probe.sessions.kv_cache import GrowingLayer, empty_cache, forked, only_keys
from probe.sessions.policies import exact_policies
from probe.sessions.prefix import Prefix
from probe.sessions.variants.edit_starts import Start
from probe.tokens.spans import TokenMap
from probe.tracing.attention import first_tensor, with_first_tensor
from probe.tracing.capturing.captured import Captured
from probe.tracing.edits import EditPlan
from probe.tracing.edits.plan import ResolvedEdit
from probe.tracing.hooks import ModelState
from probe.tracing.modules import Modules
from probe.tracing.resolving import ReadPlan
from probe.tracing.sites import BEFORE_NORM, Site, StateAddress, Step, hidden_site, state_site
from probe.tracing.slots import SequenceSlot

_FEW = 8  # a beginning of an eighth of the tokens or less runs again: the kernel's own causal mask is cheaper than a mask and a cache


@dataclass(frozen=True, eq=False)
class CleanRun:
    """The unedited forward of one sequence.

    Attributes:
        inputs: the arguments of Hugging Face's forward.
        captured: what was read.
        streams: decoder block -> the input of block 0, or the output of the block before, as the module has it.
        last: the last hidden state (1, token, feature).
        cache: keys and values of every block.
        offset: of rotary positions from token indices, after the images.
        model_state: of the model that ran.
    """

    runtime: Runtime
    tokens: TokenMap
    inputs: Mapping[str, Tensor]
    captured: Captured
    streams: Mapping[int, object]
    last: Tensor
    cache: DynamicCache
    offset: int
    model_state: ModelState

    @property
    def policy(self) -> str:
        """How copies of the sequence share its beginning: in one row if the family can, which copies no cache."""
        return exact_policies(self.runtime)[0][0]

    @property
    def crossed(self) -> frozenset[int]:
        """The decoder blocks that attend to other keys than the sequence's: their part of the cache is the same at every position."""
        return frozenset(number for number, layer in enumerate(self.cache.layers) if _length(layer) != len(self.tokens))

    @property
    def has_beginnings(self) -> bool:
        """Whether the cache holds every beginning of the sequence: a recurrent state is that of its end alone."""
        return only_keys(self.cache.layers)

    def begin(self, position: int, last_image: int) -> int:
        """From which token on a forward runs that differs from `position` on."""
        if not self.has_beginnings and position < len(self.tokens):
            return 0
        return 0 if position <= last_image and position * _FEW <= len(self.tokens) else position

    def forward(self, start: Start, edits: Sequence[EditPlan], plan: ReadPlan) -> Captured:
        """One forward over edited copies of the sequence that runs what lies behind a start.

        Args:
            edits: of each copy.
            plan: what is read, for as many sequences.
        """
        count = len(edits)
        packed = self._packed(start.position, count)
        changes = EditPlan((*self._streams_at(start, packed.slots), *_in_slots(edits)))
        logits_at = logit_indices(plan, packed.slots)
        inputs = {**packed.inputs, "logits_to_keep": torch.tensor(logits_at, dtype=torch.long)}
        engine, model = self.runtime.engine, self.runtime.model
        return engine.run(lambda given: model(**given), inputs, plan, packed.slots, edits=changes, logits_at=logits_at)

    def _packed(self, position: int, count: int) -> PackedInputs:
        """The tokens from a position on, after the cache; from the beginning on without one, each copy in a row."""
        shown = self.tokens.shown  # the streams have their states: any word does
        ids = [0 if index in shown else token for index, token in enumerate(self.tokens.ids)][position:]
        if position:
            return Continuations(self.runtime, self.policy, [self._prefix(position)], [0] * count).next_inputs([ids] * count)
        model = self.runtime.model
        positions = (torch.arange(len(ids), device=model.device) + self.offset).expand(count, -1)
        extra = self.runtime.backbone.suffix_inputs(model, self.inputs, positions, len(ids))
        inputs = {"input_ids": torch.tensor([ids] * count, device=model.device), "use_cache": False, **extra}
        return PackedInputs(inputs, tuple(map(SequenceSlot, range(count))), ())

    def _prefix(self, length: int) -> Prefix:
        cache = copy.copy(self.cache)
        cache.layers = [forked(layer, 0) for layer in self.cache.layers]
        for number, layer in enumerate(cache.layers):
            if number not in self.crossed and isinstance(layer, GrowingLayer):
                layer.hold(layer.keys[..., :length, :], layer.values[..., :length, :])
        tokens = replace(self.tokens, ids=self.tokens.ids[:length])
        return Prefix(tokens, self.inputs, cache, length + self.offset, self.model_state)

    def _streams_at(self, start: Start, slots: Sequence[SequenceSlot]) -> Iterable[ResolvedEdit]:
        """The unedited residual stream at a block, for blocks before it are left out."""
        given = self.streams[start.layer]
        states = first_tensor(given)[:, start.position :]
        if len(slots) > 1:
            states = states.expand(len(slots), -1, -1) if slots[-1].row else states.repeat(1, len(slots), 1)
        value = with_first_tensor(given, states)
        modules = self.runtime.modules
        if start.layer == 0:
            return [_Stream(stream_site(modules, 0), value, skips=False)]
        return [_Stream(stream_site(modules, block), value, skips=True) for block in range(1, start.layer + 1)]


def run_clean(runtime: Runtime, batch: Batch, plan: ReadPlan, blocks: Iterable[int]) -> CleanRun:
    """The unedited forward of one sequence.

    Args:
        plan: what is read.
        blocks: decoder blocks at which edited forwards will begin.

    Raises:
        NotFinite, and what `Engine.run` raises.
    """
    modules, cache, (tokens,) = runtime.modules, empty_cache(runtime.model.config), batch.tokens
    logits_at = logit_indices(plan, batch.slots)
    keep = torch.tensor(logits_at, dtype=torch.long)
    streams: dict[int, object] = {}
    last: dict[int, object] = {}
    kept: list[ResolvedEdit] = [_Kept(stream_site(modules, block), block, streams) for block in sorted(set(blocks))]
    kept.append(_Kept(hidden_site(modules, len(modules.layers)), 0, last))

    def forward(inputs: Mapping[str, Tensor]) -> ModelOutput:
        return runtime.forward(inputs, **{runtime.cache_argument: cache}, use_cache=True, logits_to_keep=keep)

    with runtime.engine.lock:
        captured = runtime.engine.run(
            forward, batch.inputs, plan, batch.slots, edits=EditPlan(tuple(kept)), run_to_end=True, logits_at=logits_at
        )
        offset = runtime.backbone.next_position(runtime.model, len(tokens)) - len(tokens)
    state = ModelState(runtime.model)
    return CleanRun(runtime, tokens, batch.inputs, captured, streams, first_tensor(last[0]), cache, offset, state)


def stream_site(modules: Modules, block: int) -> Site:
    """Where the residual stream that a decoder block takes is: its input for the first, else the output of the block before."""
    if block < len(modules.layers):
        return hidden_site(modules, block)
    return state_site(StateAddress(BEFORE_NORM, block), modules).site


def logit_indices(plan: ReadPlan, slots: Sequence[SequenceSlot]) -> tuple[int, ...]:
    """The token-axis indices of the logits that a plan reads, or the first one: a forward computes some."""
    rows = ((slot, plan.positions[position][row]) for position in plan.logits for row, slot in enumerate(slots))
    return tuple(sorted({index for slot, positions in rows for index in slot.tokens(positions)})) or (0,)


def _in_slots(edits: Sequence[EditPlan]) -> list[ResolvedEdit]:
    return [_InSlot(edit, number) for number, plan in enumerate(edits) for edit in plan.edits]


def _length(layer: object) -> int:
    keys = getattr(layer, "keys", None)
    return 0 if keys is None else int(keys.shape[-2])


@dataclass(frozen=True)
class _InSlot:
    """An edit of one of several sequences."""

    edit: ResolvedEdit
    number: int

    def step(self, slots: Sequence[SequenceSlot]) -> Step:
        return self.edit.step((slots[self.number],))


@dataclass(frozen=True)
class _Kept:
    """Keeps the value of a site."""

    site: Site
    number: int
    kept: dict[int, object] = field(repr=False)

    def step(self, slots: Sequence[SequenceSlot]) -> Step:
        def act(value: object) -> None:
            self.kept[self.number] = value

        return Step(self.site, act)


@dataclass(frozen=True)
class _Stream:
    """Puts a value in the place of a site's; `skips`: of the module itself, which does not run."""

    site: Site
    value: object
    skips: bool

    def step(self, slots: Sequence[SequenceSlot]) -> Step:
        act: Callable[..., object] = lambda _: self.value  # noqa: E731
        return Step(self.site, act, edits=True, skips=self.skips)
