"""The one nnsight block: run a planned forward, read in execution order, stop after the last read."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import nnsight
import torch
from torch import Tensor

from probe.attention import AttentionCall
from probe.discover import Modules
from probe.errors import InvalidRead, NestedTrace, UnmodelledAttention
from probe.plan import AttentionPlace, Plan, Rows
from probe.reads import Place


@dataclass
class Recorded:
    """What one forward gave, row by row of the batch.

    Attributes:
        hidden: (layer, place) -> for each row (token, feature).
        attention: (layer, place) -> for each row (head, query, key), float32; without `head` where heads are averaged.
        vision: layer -> (image or tile, token, feature), class tokens included.
        logits: place -> for each row (token, vocabulary).
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
        self._nn = nnsight.NNsight(model)
        self._modules = modules
        self.lock = lock_of(model)
        self._checked: set[tuple[int, str]] = set()

    def run(self, forward: Callable[[Mapping[str, Any]], Any], inputs: Mapping[str, Any], plan: Plan, offsets: Sequence[int]) -> Recorded:
        """Run `forward(inputs)` once and record what the plan asks for.

        Args:
            forward: calls the model.
            inputs: the encoded inputs.
            offsets: for each row of the batch, how much padding stands before its first real token.

        Raises:
            NestedTrace: called from inside a run of the same model.
            UnmodelledAttention, WrongRows: attention rows cannot be read exactly.
        """
        found = Recorded()
        output: dict[str, Any] = {}
        steps = list(self._steps(plan, offsets, found))
        with self.lock:
            if self._nn.interleaver.interleaving:
                raise NestedTrace("A run was started inside a run of the same model. Finish the first one, or read both things in one run.")
            with torch.no_grad():
                self._trace(forward, inputs, steps, output, whole=bool(plan.logits))
        if plan.logits:
            logits = output["forward"].logits
            found.logits = {place: _select(logits, plan.positions[place], offsets) for place in plan.logits}
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

    def _steps(self, plan: Plan, offsets: Sequence[int], found: Recorded) -> Iterator[_Step]:
        modules = self._modules
        for state in sorted(plan.vision):
            path = modules.vision_blocks[max(state - 1, 0)]
            yield _Step(path, _take_vision(state, found))
        for block, path in enumerate(modules.layers):
            if block == 0 and 0 in plan.hidden:
                yield _Step(path, _take_hidden(0, plan, offsets, found, entering=True))
            attention = modules.attention[block]
            if block in plan.attention and attention is not None:
                yield _Step(attention, self._take_attention(block, plan, offsets, found))
            state = block + 1
            if state in plan.hidden:
                last = state == len(modules.layers)
                yield _Step(modules.norm if last and modules.norm else path, _take_hidden(state, plan, offsets, found))

    def _take_attention(self, block: int, plan: Plan, offsets: Sequence[int], found: Recorded) -> Callable[[Any], None]:
        def take(envoy: Any) -> None:
            source = envoy.source
            names = [name for name in source.names if name.startswith("attention_interface_")]
            if not names:
                raise UnmodelledAttention(
                    f"{envoy.path} computes its attention without transformers' attention interface; its rows cannot be read."
                )
            operation = getattr(source, names[-1])
            call = AttentionCall.from_inputs(operation.inputs, envoy.path)
            kernel = (block, str(getattr(envoy._module.config, "_attn_implementation", "")))
            output = operation.output if kernel not in self._checked else None
            for place in plan.attention[block]:
                found.attention[block, place] = []
                for row, (queries, keys) in enumerate(zip(plan.queries[place], plan.keys[place], strict=True)):
                    positions = torch.tensor(queries, dtype=torch.long, device=call.query.device) + offsets[row]
                    rows = call.rows(row, positions)
                    if output is not None and queries:  # an empty span compares nothing
                        difference = call.check(row, positions, rows, output)
                        found.row_differences[block] = max(difference, found.row_differences.get(block, 0.0))
                        self._checked.add(kernel)
                    rows = rows.mean(0) if place.heads == "mean" else rows
                    found.attention[block, place].append(_columns(rows, call, place, keys, offsets[row]))

        return take


def _columns(rows: Tensor, call: AttentionCall, place: AttentionPlace, keys: Sequence[int], offset: int) -> Tensor:
    if call.key.shape[2] != call.query.shape[2]:  # cross-attention: the keys are not the sequence's positions
        if place.key is None:
            return rows
        raise InvalidRead(
            f"{call.where} attends to {call.key.shape[2]} vision features, not to the sequence of {call.query.shape[2]} tokens. "
            "Read it with key=None, and blocks of self-attention by themselves."
        )
    return rows.index_select(-1, torch.tensor(keys, dtype=torch.long, device=rows.device) + offset)


def _take_hidden(layer: int, plan: Plan, offsets: Sequence[int], found: Recorded, *, entering: bool = False) -> Callable[[Any], None]:
    def take(envoy: Any) -> None:
        value = envoy.input if entering else envoy.output
        states = value[0] if isinstance(value, tuple) else value
        for place in plan.hidden[layer]:
            found.hidden[layer, place] = _select(states, plan.positions[place], offsets)

    return take


def _take_vision(state: int, found: Recorded) -> Callable[[Any], None]:
    def take(envoy: Any) -> None:
        value = envoy.input if state == 0 else envoy.output
        states = value[0] if isinstance(value, tuple) else value
        found.vision[state] = states.detach().clone()

    return take


def _select(states: Tensor, rows: Rows, offsets: Sequence[int]) -> list[Tensor]:
    """For each row of the batch its positions' states (token, feature): copies, so that a slice does not keep the whole tensor alive."""
    return [
        states[row].index_select(0, torch.tensor(positions, dtype=torch.long, device=states.device) + offsets[row])
        for row, positions in enumerate(rows)
    ]
