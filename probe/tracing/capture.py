"""What a traced forward does at each module that is read, and the tensors that it keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from probe.errors import InvalidRead, NotFinite
from probe.tokens.equality import equal_fields
from probe.tracing.attention import AttentionCall, AttentionWeights, RunningAttention, first_tensor
from probe.tracing.finite import FiniteCheck, is_finite
from probe.tracing.reads import Position, position_name
from probe.tracing.resolving import AttentionSelection, Indices, ReadPlan, RowIndices, SequenceSlot

if TYPE_CHECKING:
    from transformers.utils import ModelOutput

    from probe.tracing.modules import Modules


@dataclass(eq=False)
class Captured:
    """The tensors that one forward captured, sequence by sequence. Two are equal if all tensors are.

    Attributes:
        hidden: (layer, position) -> for each sequence (token, feature).
        attention: (block, selection) -> for each sequence (head, query, key), float32; without `head` where heads are averaged.
        vision: layer -> (image or tile, token, feature), class tokens included.
        logits: position -> for each sequence (token, vocabulary).
        row_differences: attention block -> difference of rows @ values from the call's own output, at first use.
    """

    hidden: dict[tuple[int, Position | None], list[Tensor]] = field(default_factory=dict)
    attention: dict[tuple[int, AttentionSelection], list[Tensor]] = field(default_factory=dict)
    vision: dict[int, Tensor] = field(default_factory=dict)
    logits: dict[Position | None, list[Tensor]] = field(default_factory=dict)
    row_differences: dict[int, float] = field(default_factory=dict, compare=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Captured):
            return NotImplemented
        return equal_fields(self, other)

    __hash__ = None  # type: ignore[assignment]


Part = Literal["input", "output", "attention"]
"""What is read of a module: its first input, its output, or the attention call inside its forward."""

_TOWER, _DECODER = 0, 1
_INPUT, _ATTENTION, _OUTPUT = 0, 1, 2


@dataclass(frozen=True)
class Step:
    """One read at one module.

    Attributes:
        order: (tower or decoder, block, part of the block). A forward reaches the steps in this order, and has to be read in it.
        module: its path.
        part: what is read of it.
        take: receives the value; for the part "attention" a `RunningAttention`.
    """

    order: tuple[int, int, int]
    module: str
    part: Part
    take: Callable[..., None]


def tower_state(modules: Modules, state: int, take: Callable[[object], None]) -> Step:
    """The step that reads a `hidden_states` index of the vision tower."""
    if state == 0:
        return Step((_TOWER, 0, _INPUT), modules.vision_blocks[0], "input", take)
    return Step((_TOWER, state - 1, _OUTPUT), modules.vision_blocks[state - 1], "output", take)


def hidden_state(modules: Modules, state: int, take: Callable[[object], None]) -> Step:
    """The step that reads a `hidden_states` index of the decoder."""
    if state == 0:
        return Step((_DECODER, 0, _INPUT), modules.layers[0], "input", take)
    last = state == len(modules.layers)
    return Step((_DECODER, state - 1, _OUTPUT), modules.last if last else modules.layers[state - 1], "output", take)


class Capture:
    """Captures what a plan asks for in one forward.

    Args:
        plan: the resolved reads.
        slots: for each sequence of the plan, where it is in the model's tensors.
        modules: the model's modules.
        compared: attention blocks and kernels whose rows were compared with the call's own output; extended at first use.

    Attributes:
        captured: the tensors so far.
    """

    def __init__(self, plan: ReadPlan, slots: Sequence[SequenceSlot], modules: Modules, compared: set[tuple[int, str]]) -> None:
        self.captured = Captured()
        self._plan, self._slots, self._modules, self._compared = plan, slots, modules, compared
        self._finite = FiniteCheck[Callable[[], str]]()  # each tensor's name is a function that returns its message

    def steps(self) -> list[Step]:
        """The steps of all reads, in the order in which the forward reaches them."""
        return sorted((*self._vision_steps(), *self._hidden_steps(), *self._attention_steps()), key=lambda step: step.order)

    def take_logits(self, output: ModelOutput) -> None:
        """Keep the logits of the model's output at the positions of the plan."""
        for position in self._plan.logits:
            rows = select_positions(output.logits, self._plan.positions[position], self._slots)
            self.captured.logits[position] = rows
            message = _not_finite("Logits", position)
            for row in rows:
                # A model may ban tokens by a logit of -inf, so only the largest of each position has to be finite.
                self._finite.add(partial(str, message), row.amax(-1) if row.numel() else row)

    def refuse_not_finite(self) -> None:
        """Raise if something that was read is not finite.

        Raises:
            NotFinite: names the first in the order of the forward.
        """
        for message in filter(None, (failed() for failed in self._finite.failed())):
            raise NotFinite(message)

    def _vision_steps(self) -> Iterator[Step]:
        for state in self._plan.vision:
            yield tower_state(self._modules, state, partial(self._take_vision, state))

    def _hidden_steps(self) -> Iterator[Step]:
        for state in self._plan.hidden:
            yield hidden_state(self._modules, state, partial(self._take_hidden, state))

    def _attention_steps(self) -> Iterator[Step]:
        for block in self._plan.attention:
            module = self._modules.attention[block]
            if module is not None:
                yield Step((_DECODER, block, _ATTENTION), module, "attention", partial(self._take_attention, block))

    def _take_vision(self, state: int, value: object) -> None:
        states = first_tensor(value)
        self._finite.add(lambda: f"State {state} of the vision tower holds NaN or infinity.", states)
        self.captured.vision[state] = states.detach().clone()

    def _take_hidden(self, state: int, value: object) -> None:
        states = token_states(value, self._modules.axes)
        # One reduction over all tokens, not one for each position. Padding, which may hold anything, is left out only if this fails.
        self._finite.add(partial(self._not_finite_hidden, state), states)
        for position in self._plan.hidden[state]:
            self.captured.hidden[state, position] = select_positions(states, self._plan.positions[position], self._slots)

    def _take_attention(self, block: int, running: RunningAttention) -> None:
        first_use = (block, running.kernel) not in self._compared
        output = running.output() if first_use else None
        for selection in self._plan.attention[block]:
            self.captured.attention[block, selection] = [
                self._attention_rows(block, selection, running, output, sequence) for sequence in range(len(self._slots))
            ]

    def _attention_rows(
        self, block: int, selection: AttentionSelection, running: RunningAttention, output: object | None, sequence: int
    ) -> Tensor:
        """The rows of one sequence, (head, query, key) or (query, key).

        Args:
            output: the attention call's own output, to compare the rows with; None: no comparison.
        """
        call, slot, queries = running.call, self._slots[sequence], self._plan.queries[selection][sequence]
        positions = torch.tensor(slot.tokens(queries), dtype=torch.long, device=call.device)
        rows = call.rows(slot.row, positions)
        if output is not None and queries:  # an empty span compares nothing
            difference = call.check(slot.row, positions, rows, output)
            self.captured.row_differences[block] = max(difference, self.captured.row_differences.get(block, 0.0))
            self._compared.add((block, running.kernel))
        self._finite.add(lambda: f"Attention rows of block {block} hold NaN or infinity.", rows)
        rows = rows.mean(0) if selection.heads == "mean" else rows
        return _select_keys(rows, call, selection, slot, self._plan.keys[selection][sequence])

    def _not_finite_hidden(self, layer: int) -> str:
        """The message about a layer's hidden states; "" if they are finite at the positions that were read."""
        for (state, position), rows in self.captured.hidden.items():
            if state == layer and not all(map(is_finite, rows)):
                return _not_finite(f"Hidden states of layer {layer}", position)
        return ""


def steps_over_all_states(
    modules: Modules, rows: RowIndices, slots: Sequence[SequenceSlot], check: FiniteCheck[str], *, with_vision: bool
) -> Iterator[Step]:
    """Steps that check every state in the order of the forward, and keep none.

    Args:
        rows: for each sequence the positions to check; padding may hold anything.
        check: gets each state, under a name for messages.
    """

    def check_tokens(name: str, value: object) -> None:
        for states in select_positions(token_states(value, modules.axes), rows, slots):
            check.add(name, states)

    def check_tower(name: str, value: object) -> None:
        check.add(name, first_tensor(value))

    if with_vision:
        for state in range(len(modules.vision_blocks) + 1):
            yield tower_state(modules, state, partial(check_tower, f"state {state} of the vision tower"))
    yield hidden_state(modules, 0, partial(check_tokens, "hidden state 0, the embeddings"))
    for block, path in enumerate(modules.layers):
        name = f"hidden state {block + 1}, the output of decoder block {block}"
        yield Step((_DECODER, block, _OUTPUT), path, "output", partial(check_tokens, name))


def _not_finite(name: str, position: Position | None) -> str:
    at = "" if position is None else f" at {position_name(position)}"
    return f"{name}{at} hold NaN or infinity."


def token_states(value: object, axes: Sequence[str]) -> Tensor:
    """A block's input or output as (batch, token, feature), its residual streams concatenated."""
    states = first_tensor(value)
    if states.ndim == 3 or "stream" not in axes:
        return states
    return states.permute([axes.index(axis) for axis in ("batch", "token", "stream", "feature")]).flatten(2)


def select_positions(states: Tensor, rows: RowIndices, slots: Sequence[SequenceSlot]) -> list[Tensor]:
    """For each sequence the states (token, feature) at its positions.

    They are copies: a view of a few positions would keep the whole tensor alive.
    """
    return [
        states[slot.row].index_select(0, torch.tensor(slot.tokens(positions), dtype=torch.long, device=states.device))
        for slot, positions in zip(slots, rows, strict=True)
    ]


def _select_keys(
    rows: Tensor, call: AttentionCall | AttentionWeights, selection: AttentionSelection, slot: SequenceSlot, keys: Indices
) -> Tensor:
    queries, width = call.shape
    tokens = queries + slot.shared
    if width == tokens:
        return rows.index_select(-1, torch.tensor(slot.keys(keys), dtype=torch.long, device=rows.device))
    if selection.key is None:  # cross-attention: its keys are not the sequence's positions, and all of them are kept
        return rows
    raise InvalidRead(
        f"{call.module_path} attends to {width} keys of its own, not to the sequence of {tokens} tokens. "
        "Read it with key=None, and blocks of self-attention by themselves."
    )
