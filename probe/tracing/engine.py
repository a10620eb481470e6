"""The one nnsight block: run a planned forward, read in execution order, stop after the last read."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal

import nnsight
import torch
from nnsight.intervention.interleaver import OutOfOrderError
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from probe.errors import InvalidRead, NestedTrace, NotFinite
from probe.tokens.spans import Span
from probe.tracing.attention import AttentionCall, AttentionWeights
from probe.tracing.finite import FiniteCheck, is_finite
from probe.tracing.hooks import forward_hooks
from probe.tracing.modules import Modules
from probe.tracing.reads import Position
from probe.tracing.resolving import AttentionSelection, ReadPlan, RowIndices, SequenceSlot


@dataclass
class Captured:
    """What one forward gave, sequence by sequence.

    Attributes:
        hidden: (layer, place) -> for each sequence (token, feature).
        attention: (layer, place) -> for each sequence (head, query, key), float32; without `head` where heads are averaged.
        vision: layer -> (image or tile, token, feature), class tokens included.
        logits: place -> for each sequence (token, vocabulary).
        row_differences: attention block -> how far rows @ values were from the call's own output, at first use.
    """

    hidden: dict[tuple[int, Position | None], list[Tensor]] = field(default_factory=dict)
    attention: dict[tuple[int, AttentionSelection], list[Tensor]] = field(default_factory=dict)
    vision: dict[int, Tensor] = field(default_factory=dict)
    logits: dict[Position | None, list[Tensor]] = field(default_factory=dict)
    row_differences: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Step:
    """One read at one module.

    Attributes:
        path: of the module.
        take: receives the module's first input or its output; or, from inside its forward, its envoy.
        at: which of these.
    """

    path: str
    take: Callable[[Any], None]
    at: Literal["input", "output", "inside"]


_Checked = tuple[str, int, AttentionSelection | Position | None]
"""What a tensor is that was checked to be finite: "vision", "hidden", "attention" or "logits"; its layer; its place, if it is of one."""


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
        self._model, self._modules = model, modules
        self.lock = lock_of(model)
        self._checked: set[tuple[int, str]] = set()
        self._behind_hooks: list[RemovableHandle] = []

    def run(
        self,
        forward: Callable[[Mapping[str, Any]], Any],
        inputs: Mapping[str, Any],
        plan: ReadPlan,
        slots: Sequence[SequenceSlot],
        *,
        whole: bool = False,
    ) -> Captured:
        """Run `forward(inputs)` once and record what the plan asks for.

        Args:
            forward: calls the model.
            inputs: the encoded inputs.
            slots: for each sequence of the plan, where it sits in the model's tensors.
            whole: go on to the end, for a forward that fills a cache.

        Raises:
            NestedTrace: called from inside a run of the same model.
            InvalidRead: a module that is read does not run for these inputs, such as the vision tower without an image.
            UnmodelledAttention, WrongRows: attention rows cannot be read exactly.
            NotFinite: something that was read holds NaN or infinity.
        """
        found, check = Captured(), FiniteCheck[_Checked]()
        output = self._run(forward, inputs, list(self._steps(plan, slots, found, check)), whole=whole or bool(plan.logits))
        if plan.logits:
            found.logits = {place: _select(output.logits, plan.positions[place], slots) for place in plan.logits}
            for place, rows in found.logits.items():
                for logits in rows:
                    check.add(("logits", 0, place), logits.amax(-1) if logits.numel() else logits)  # a model may ban tokens by -inf
        _refuse_not_finite(check.failed(), found)
        return found

    def where_not_finite(
        self, forward: Callable[[Mapping[str, Any]], Any], inputs: Mapping[str, Any], rows: RowIndices, slots: Sequence[SequenceSlot]
    ) -> str:
        """Where NaN or infinity begins in a forward: the first of the tower's states and the decoder's, "" if these are all finite.

        Args:
            rows: for each sequence the positions that count; padding may hold anything.
        """
        for with_vision in (True, False) if self._modules.vision_blocks else (False,):
            check = FiniteCheck[str]()
            try:
                self._run(forward, inputs, list(self._every_state(rows, slots, check, with_vision=with_vision)), whole=False)
            except InvalidRead:  # the tower does not run without an image
                continue
            return next(iter(check.failed()), "")
        return ""

    def _every_state(
        self, rows: RowIndices, slots: Sequence[SequenceSlot], check: FiniteCheck[str], *, with_vision: bool
    ) -> Iterator[_Step]:
        """Steps that check all states in the order of the forward, and keep none of them."""
        modules = self._modules

        def checking(name: str) -> Callable[[Any], None]:
            def take(value: Any) -> None:
                for states in _select(token_states(value, modules.axes), rows, slots):
                    check.add(name, states)

            return take

        def checking_tower(name: str) -> Callable[[Any], None]:
            return lambda value: check.add(name, _tower_states(value))

        if with_vision:
            for block, path in enumerate(modules.vision_blocks):
                yield _Step(path, checking_tower(f"state {block + 1} of the vision tower"), "output")
        yield _Step(modules.layers[0], checking("hidden state 0, the embeddings"), "input")
        for block, path in enumerate(modules.layers):
            yield _Step(path, checking(f"hidden state {block + 1}, the output of decoder block {block}"), "output")

    def _run(self, forward: Callable[[Mapping[str, Any]], Any], inputs: Mapping[str, Any], steps: Sequence[_Step], *, whole: bool) -> Any:
        """Trace one forward; what it returned, where it was run to its end."""
        output: dict[str, Any] = {}
        with self.lock:
            if self._nn.interleaver.interleaving:
                raise NestedTrace("A run was started inside a run of the same model. Finish the first one, or read both things in one run.")
            hooked = {step.path for step in steps if step.at == "output" and forward_hooks(self._model.get_submodule(step.path))}
            try:
                with torch.no_grad():
                    # A forward hook runs after the place at which nnsight would stop the forward.
                    self._trace(forward, inputs, steps, output, hooked, whole=whole or bool(hooked))
            except OutOfOrderError as error:
                named = [step.path for step in steps if step.path in str(error)]
                path = max(named, key=len, default="a module")
                need = "Vision states need an image in the input" if path in self._modules.vision_blocks else "Read something else"
                raise InvalidRead(f"{path} was to be read, which does not run for these inputs. {need}.") from error
            finally:
                while self._behind_hooks:
                    self._behind_hooks.pop().remove()
        return output.get("forward")

    def _stand(self, envoy: Any, step: _Step, *, behind_hooks: bool) -> None:
        """Take what a step reads, while the forward stands at its module."""
        if step.at == "inside":
            step.take(envoy)
        elif step.at == "input":
            step.take(envoy.input)
        elif not behind_hooks:
            step.take(envoy.output)
        else:
            # nnsight stands inside the module's forward, before its hooks. One that is added now runs in this call, as the last of them.
            _ = envoy.output

            def last(_module: Any, _inputs: Any, output: Any) -> None:
                handle.remove()  # of several calls of a module the first is read
                step.take(output)

            handle = envoy._module.register_forward_hook(last)
            self._behind_hooks.append(handle)

    def _trace(
        self,
        forward: Callable[[Mapping[str, Any]], Any],
        inputs: Mapping[str, Any],
        steps: Sequence[_Step],
        output: dict[str, Any],
        hooked: Set[str],
        *,
        whole: bool,
    ) -> None:
        nn = self._nn
        with nn.trace(inputs, fn=forward) as tracer:
            for step in steps:
                self._stand(nn.get(step.path), step, behind_hooks=step.path in hooked)
            if whole:
                output["forward"] = tracer.result
            else:
                tracer.stop()

    def _steps(self, plan: ReadPlan, slots: Sequence[SequenceSlot], found: Captured, check: FiniteCheck[_Checked]) -> Iterator[_Step]:
        modules = self._modules
        for state in sorted(plan.vision):
            path = modules.vision_blocks[max(state - 1, 0)]
            yield _Step(path, _take_vision(state, found, check), "output" if state else "input")
        for block, path in enumerate(modules.layers):
            if block == 0 and 0 in plan.hidden:
                yield _Step(path, self._take_hidden(0, plan, slots, found, check), "input")
            attention = modules.attention[block]
            if block in plan.attention and attention is not None:
                yield _Step(attention, self._take_attention(block, plan, slots, found, check), "inside")
            state = block + 1
            if state in plan.hidden:
                last = state == len(modules.layers)
                yield _Step(modules.last if last else path, self._take_hidden(state, plan, slots, found, check), "output")

    def _take_hidden(
        self, layer: int, plan: ReadPlan, slots: Sequence[SequenceSlot], found: Captured, check: FiniteCheck[_Checked]
    ) -> Callable[[Any], None]:
        def take(value: Any) -> None:
            states = token_states(value, self._modules.axes)
            # All tokens at once, rather than a reduction for each sequence and place; padding is looked past if this fails.
            check.add(("hidden", layer, None), states)
            for place in plan.hidden[layer]:
                found.hidden[layer, place] = _select(states, plan.positions[place], slots)

        return take

    def _take_attention(
        self, block: int, plan: ReadPlan, slots: Sequence[SequenceSlot], found: Captured, check: FiniteCheck[_Checked]
    ) -> Callable[[Any], None]:
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
                for slot, queries, keys in zip(slots, plan.queries[place], plan.keys[place], strict=True):
                    positions = torch.tensor(slot.tokens(queries), dtype=torch.long, device=call.device)
                    rows = call.rows(slot.row, positions)
                    if output is not None and queries:  # an empty span compares nothing
                        difference = call.check(slot.row, positions, rows, output)
                        found.row_differences[block] = max(difference, found.row_differences.get(block, 0.0))
                        self._checked.add(kernel)
                    check.add(("attention", block, place), rows)
                    rows = rows.mean(0) if place.heads == "mean" else rows
                    found.attention[block, place].append(_columns(rows, call, place, slot, keys))

        return take


def _take_vision(state: int, found: Captured, check: FiniteCheck[_Checked]) -> Callable[[Any], None]:
    def take(value: Any) -> None:
        states = _tower_states(value)
        check.add(("vision", state, None), states)
        found.vision[state] = states.detach().clone()

    return take


def _tower_states(value: Any) -> Tensor:
    """What a block of the tower takes or returns; older versions of transformers return tuples."""
    states: Tensor = value[0] if isinstance(value, tuple) else value
    return states


def _columns(
    rows: Tensor, call: AttentionCall | AttentionWeights, place: AttentionSelection, slot: SequenceSlot, keys: Sequence[int]
) -> Tensor:
    queries, width = call.shape
    if width != queries + slot.shared:  # cross-attention: the keys are not the sequence's positions
        if place.key is None:
            return rows
        raise InvalidRead(
            f"{call.where} attends to {width} keys of its own, not to the sequence of {queries + slot.shared} tokens. "
            "Read it with key=None, and blocks of self-attention by themselves."
        )
    return rows.index_select(-1, torch.tensor(slot.keys(keys), dtype=torch.long, device=rows.device))


def _refuse_not_finite(failed: Sequence[_Checked], found: Captured) -> None:
    """Refuse what was read and is not finite.

    Raises:
        NotFinite: the first in the order of the forward is named.
    """
    for kind, layer, place in failed:
        if kind == "hidden":
            where = [at for (read, at), rows in found.hidden.items() if read == layer and not all(map(is_finite, rows))]
            if where:
                raise NotFinite(f"Hidden states of layer {layer}{_at(where[0])} hold NaN or infinity.")
        elif kind == "vision":
            raise NotFinite(f"State {layer} of the vision tower holds NaN or infinity.")
        elif kind == "attention":
            raise NotFinite(f"Attention rows of block {layer} hold NaN or infinity.")
        else:
            raise NotFinite(f"Logits{_at(place)} hold NaN or infinity.")


def _at(place: Any) -> str:
    named = place.name if isinstance(place, Span) else place
    return "" if place is None else f" at {named!r}"


def token_states(value: Any, axes: Sequence[str]) -> Tensor:
    """What a block takes or returns as (batch, token, feature), residual streams side by side in the features."""
    states: Tensor = value if isinstance(value, Tensor) else value[0]
    if states.ndim == 3 or "stream" not in axes:
        return states
    return states.permute([axes.index(axis) for axis in ("batch", "token", "stream", "feature")]).flatten(2)


def _select(states: Tensor, rows: RowIndices, slots: Sequence[SequenceSlot]) -> list[Tensor]:
    """For each sequence its positions' states (token, feature): copies, so that a slice does not keep the whole tensor alive."""
    return [
        states[slot.row].index_select(0, torch.tensor(slot.tokens(positions), dtype=torch.long, device=states.device))
        for slot, positions in zip(slots, rows, strict=True)
    ]
