"""The one nnsight block: run a planned forward, read in execution order, stop after the last read."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import nnsight
import torch
from torch import Tensor

from probe.attention import AttentionCall, AttentionWeights
from probe.discover import Modules
from probe.errors import InvalidRead, NestedTrace
from probe.plan import AttentionPlace, Plan, Rows, Seat
from probe.reads import Place


@dataclass
class Recorded:
    """What one forward gave, sequence by sequence.

    Attributes:
        hidden: (layer, place) -> for each sequence (token, feature).
        attention: (layer, place) -> for each sequence (head, query, key), float32; without `head` where heads are averaged.
        vision: layer -> (image or tile, token, feature), class tokens included.
        logits: place -> for each sequence (token, vocabulary).
        row_differences: attention block -> how far rows @ values were from the call's own output, at first use.
    """

    hidden: dict[tuple[int, Place | None], list[Tensor]] = field(default_factory=dict)
    attention: dict[tuple[int, AttentionPlace], list[Tensor]] = field(default_factory=dict)
    vision: dict[int, Tensor] = field(default_factory=dict)
    logits: dict[Place | None, list[Tensor]] = field(default_factory=dict)
    row_differences: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Step:
    """One read at one module: `take` receives the module's envoy while the forward stands there."""

    path: str
    take: Callable[[Any], None]


_LOCKS: weakref.WeakKeyDictionary[Any, threading.RLock] = weakref.WeakKeyDictionary()


def lock_of(model: Any) -> threading.RLock:
    """The lock of a Hugging Face model. It belongs to the model, not to a wrapper: nnsight's hooks sit in the model's own modules."""
    return _LOCKS.setdefault(model, threading.RLock())


class Engine:
    """nnsight around one model. Runs of one model wait for each other; a run inside a run is an error.

    Attributes:
        lock: hold it around any other forward of the model.
    """

    def __init__(self, model: Any, modules: Modules) -> None:
        with warnings.catch_warnings():
            # BERT-like parts have a submodule called `output`. None of ours is read by that name.
            warnings.filterwarnings("ignore", message=".*which nnsight already serves on every module")
            self._nn = nnsight.NNsight(model)
        self._modules = modules
        self.lock = lock_of(model)
        self._checked: set[tuple[int, str]] = set()

    def run(
        self,
        forward: Callable[[Mapping[str, Any]], Any],
        inputs: Mapping[str, Any],
        plan: Plan,
        seats: Sequence[Seat],
        *,
        whole: bool = False,
    ) -> Recorded:
        """Run `forward(inputs)` once and record what the plan asks for.

        Args:
            forward: calls the model.
            inputs: the encoded inputs.
            seats: for each sequence of the plan, where it sits in the model's tensors.
            whole: go on to the end, for a forward that fills a cache.

        Raises:
            NestedTrace: called from inside a run of the same model.
            UnmodelledAttention, WrongRows: attention rows cannot be read exactly.
        """
        found = Recorded()
        output: dict[str, Any] = {}
        steps = list(self._steps(plan, seats, found))
        with self.lock:
            if self._nn.interleaver.interleaving:
                raise NestedTrace("A run was started inside a run of the same model. Finish the first one, or read both things in one run.")
            with torch.no_grad():
                self._trace(forward, inputs, steps, output, whole=whole or bool(plan.logits))
        if plan.logits:
            logits = output["forward"].logits
            found.logits = {place: _select(logits, plan.positions[place], seats) for place in plan.logits}
        return found

    def _trace(
        self,
        forward: Callable[[Mapping[str, Any]], Any],
        inputs: Mapping[str, Any],
        steps: Sequence[_Step],
        output: dict[str, Any],
        *,
        whole: bool,
    ) -> None:
        nn = self._nn
        with nn.trace(inputs, fn=forward) as tracer:
            for step in steps:
                step.take(nn.get(step.path))
            if whole:
                output["forward"] = tracer.result
            else:
                tracer.stop()

    def _steps(self, plan: Plan, seats: Sequence[Seat], found: Recorded) -> Iterator[_Step]:
        modules = self._modules
        for state in sorted(plan.vision):
            path = modules.vision_blocks[max(state - 1, 0)]
            yield _Step(path, _take_vision(state, found))
        for block, path in enumerate(modules.layers):
            if block == 0 and 0 in plan.hidden:
                yield _Step(path, self._take_hidden(0, plan, seats, found, entering=True))
            attention = modules.attention[block]
            if block in plan.attention and attention is not None:
                yield _Step(attention, self._take_attention(block, plan, seats, found))
            state = block + 1
            if state in plan.hidden:
                last = state == len(modules.layers)
                yield _Step(modules.last if last else path, self._take_hidden(state, plan, seats, found))

    def _take_hidden(
        self, layer: int, plan: Plan, seats: Sequence[Seat], found: Recorded, *, entering: bool = False
    ) -> Callable[[Any], None]:
        def take(envoy: Any) -> None:
            states = token_states(envoy.input if entering else envoy.output, self._modules.axes)
            for place in plan.hidden[layer]:
                found.hidden[layer, place] = _select(states, plan.positions[place], seats)

        return take

    def _take_attention(self, block: int, plan: Plan, seats: Sequence[Seat], found: Recorded) -> Callable[[Any], None]:
        def take(envoy: Any) -> None:
            source = envoy.source
            names = [name for name in source.names if name.startswith("attention_interface_")]
            operation = getattr(source, names[-1]) if names else envoy
            call = (
                AttentionCall.from_inputs(operation.inputs, envoy.path) if names else AttentionWeights.from_output(envoy.output, envoy.path)
            )
            kernel = (block, str(getattr(getattr(envoy._module, "config", None), "_attn_implementation", "")))
            output = operation.output if kernel not in self._checked else None
            for place in plan.attention[block]:
                found.attention[block, place] = []
                for seat, queries, keys in zip(seats, plan.queries[place], plan.keys[place], strict=True):
                    positions = torch.tensor(seat.tokens(queries), dtype=torch.long, device=call.device)
                    rows = call.rows(seat.row, positions)
                    if output is not None and queries:  # an empty span compares nothing
                        difference = call.check(seat.row, positions, rows, output)
                        found.row_differences[block] = max(difference, found.row_differences.get(block, 0.0))
                        self._checked.add(kernel)
                    rows = rows.mean(0) if place.heads == "mean" else rows
                    found.attention[block, place].append(_columns(rows, call, place, seat, keys))

        return take


def _columns(rows: Tensor, call: AttentionCall | AttentionWeights, place: AttentionPlace, seat: Seat, keys: Sequence[int]) -> Tensor:
    queries, width = call.shape
    if width != queries + seat.shared:  # cross-attention: the keys are not the sequence's positions
        if place.key is None:
            return rows
        raise InvalidRead(
            f"{call.where} attends to {width} keys of its own, not to the sequence of {queries + seat.shared} tokens. "
            "Read it with key=None, and blocks of self-attention by themselves."
        )
    return rows.index_select(-1, torch.tensor(seat.keys(keys), dtype=torch.long, device=rows.device))


def _take_vision(state: int, found: Recorded) -> Callable[[Any], None]:
    def take(envoy: Any) -> None:
        value = envoy.input if state == 0 else envoy.output
        states = value[0] if isinstance(value, tuple) else value
        found.vision[state] = states.detach().clone()

    return take


def token_states(value: Any, axes: Sequence[str]) -> Tensor:
    """What a block takes or returns as (batch, token, feature), residual streams side by side in the features."""
    states: Tensor = value if isinstance(value, Tensor) else value[0]
    if states.ndim == 3 or "stream" not in axes:
        return states
    return states.permute([axes.index(axis) for axis in ("batch", "token", "stream", "feature")]).flatten(2)


def _select(states: Tensor, rows: Rows, seats: Sequence[Seat]) -> list[Tensor]:
    """For each sequence its positions' states (token, feature): copies, so that a slice does not keep the whole tensor alive."""
    return [
        states[seat.row].index_select(0, torch.tensor(seat.tokens(positions), dtype=torch.long, device=states.device))
        for seat, positions in zip(seats, rows, strict=True)
    ]
