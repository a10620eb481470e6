"""What a traced forward does at each site that is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from probe.errors import InvalidRead, NotFinite, UnmodelledAttention
from probe.tracing.attention import AttentionCall, AttentionWeights, ReturnedWeights, RunningAttention, first_tensor
from probe.tracing.capturing.captured import Captured, Places, places_of, select, select_logits, select_positions
from probe.tracing.capturing.finite import FiniteCheck, is_finite
from probe.tracing.reads import Module, Position, as_positions, position_name
from probe.tracing.resolving import AttentionSelection, Indices, ReadPlan, RowIndices
from probe.tracing.sites import (
    StateAddress,
    StateSite,
    Step,
    attention_site,
    hidden_site,
    module_site,
    state_site,
    token_states,
    tower_attention_site,
    tower_input_site,
    tower_site,
)
from probe.tracing.slots import SequenceSlot, as_indices, batch_rows

if TYPE_CHECKING:
    from transformers.utils import ModelOutput

    from probe.tracing.modules import Modules


WEIGHTS_AT_ONCE = 1 << 24
"""Attention weights that are computed in one product: 64 MB in float32."""


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
        self._tower_tokens: dict[int, int] = {}
        self._places: dict[tuple[Position | None, bool, torch.device], list[tuple[int, Places]]] = {}
        self._finite = FiniteCheck[Callable[[], str]]()  # each tensor's name is a function that returns its message

    def steps(self) -> Iterator[Step]:
        """The steps of all reads."""
        plan = self._plan
        for state in plan.vision:
            yield Step(tower_site(self._modules, state), partial(self._take_vision, state))
        for block in plan.vision_attention:
            yield Step(tower_input_site(self._modules, block), partial(self._count_tower_tokens, block))
            yield Step(tower_attention_site(self._modules, block), partial(self._take_vision_attention, block))
        for address in plan.states:
            adapter = state_site(address, self._modules)
            yield Step(adapter.site, partial(self._take_states, address, adapter))
        for block in plan.attention:
            yield Step(attention_site(self._modules, block), partial(self._take_attention, block))
        for read in plan.modules:
            yield Step(module_site(read.path, read.side), partial(self._take_module, read))

    def take_logits(self, output: ModelOutput, computed: Sequence[int] | None = None) -> None:
        """Keep the logits of the model's output at the positions of the plan.

        Args:
            computed: the token-axis indices that the output has logits of; None: all.
        """
        for position in self._plan.logits:
            rows = select_logits(output.logits, self._plan.positions[position], self._slots, computed)
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

    def _take_vision(self, state: int, value: object) -> None:
        states = first_tensor(value)
        self._finite.add(lambda: f"State {state} of the vision tower holds NaN or infinity.", states)
        self.captured.vision[state] = states.detach().clone()

    def _count_tower_tokens(self, block: int, value: object) -> None:
        self._tower_tokens[block] = first_tensor(value).shape[:-1].numel()

    def _take_vision_attention(self, block: int, value: object) -> None:
        running, layout = cast(RunningAttention, value), self._plan.tower
        call = running.interface_call
        images, (queries, _) = call.query.shape[0], call.shape
        if images * queries != self._tower_tokens[block] or call.shape[0] != call.shape[1] or layout is None:
            raise UnmodelledAttention(
                f"{call.module_path} attends in several calls, or in windows: of its {self._tower_tokens[block]} tokens a call has {images} x "
                f"{queries}. Rows of this vision tower cannot be read; its states can be."
            )
        for selection in self._plan.vision_attention[block]:
            indices = layout.indices(selection.query, queries)
            positions = as_indices(indices, call.device)
            keys = as_indices(layout.indices(selection.key, queries), call.device)
            rows = torch.stack([call.rows(image, positions) for image in range(images)])
            self._finite.add(lambda: f"Attention rows of block {block} of the vision tower hold NaN or infinity.", rows)
            if (-1 - block, running.kernel) not in self._compared and indices:
                call.check(0, positions, rows[0], running.output())
                self._compared.add((-1 - block, running.kernel))
            rows = rows.index_select(-1, keys)
            if selection.heads == "mean":
                rows = rows.mean(1)
            elif selection.heads != "all":
                rows = torch.stack([_select_heads(image, selection.heads, "VisionAttention") for image in rows])
            self.captured.vision_attention[block, selection] = rows

    def _take_states(self, address: StateAddress, adapter: StateSite, value: object) -> None:
        states, heads = adapter.view(value, batch_rows(self._slots)), self._plan.heads.get(address)
        if adapter.by_key and not any(slot.shared for slot in self._slots):
            call = cast(RunningAttention, value).interface_call
            if call.shape[1] != call.shape[0]:
                raise InvalidRead(
                    f"{call.module_path} attends to {call.shape[1]} keys of its own, not to the sequence. Read Queries() of it."
                )
        # One reduction over all tokens, not one for each position. Padding, which may hold anything, is left out only if this fails.
        self._finite.add(partial(_not_finite_states, self.captured.states, address), states)
        for position in self._plan.states[address]:
            rows = select(states, self._places_of(position, states.device, by_key=adapter.by_key))
            if states.ndim == 4:
                rows = [_select_heads(row.transpose(0, 1), heads, str(address.read)) for row in rows]
            self.captured.states[address, position] = rows

    def _places_of(self, position: Position | None, device: torch.device, *, by_key: bool = False) -> list[tuple[int, Places]]:
        """The places of a position's tokens, found once for all blocks."""
        if (key := (position, by_key, device)) not in self._places:
            self._places[key] = places_of(self._plan.positions[position], self._slots, device, by_key=by_key)
        return self._places[key]

    def _take_module(self, read: Module, value: object) -> None:
        tensor = first_tensor(value)
        self._finite.add(lambda: f"The {read.side} of {read.path} holds NaN or infinity.", tensor)
        if read.at is None:
            self.captured.modules[read] = [tensor.detach().clone()]
            return
        if tensor.ndim != 3:
            raise InvalidRead(
                f"The {read.side} of {read.path} has the shape {tuple(tensor.shape)}, not (batch, token, feature). Read it with at=None."
            )
        rows = [select(tensor, self._places_of(position, tensor.device)) for position in as_positions(read.at, "at") or ()]
        self.captured.modules[read] = [torch.cat(row) for row in zip(*rows, strict=True)]

    def _take_attention(self, block: int, value: object) -> None:
        running = value if isinstance(value, RunningAttention) else ReturnedWeights(value, str(self._modules.attention[block]))
        first_use = (block, running.kernel) not in self._compared
        output = running.output() if first_use else None
        for selection in self._plan.attention[block]:
            found: dict[int, Tensor] = {}
            for sequences in self._computed_together(selection, running.call):
                found |= self._attention_rows(block, selection, running, output, sequences)
            self.captured.attention[block, selection] = [found[sequence] for sequence in range(len(self._slots))]

    def _computed_together(self, selection: AttentionSelection, call: AttentionCall | AttentionWeights) -> Iterator[list[int]]:
        """The sequences of each row of the batch, so many at once as their attention rows fit into `WEIGHTS_AT_ONCE`."""
        queries, most = self._plan.queries[selection], max(1, WEIGHTS_AT_ONCE // max(1, call.heads * call.shape[1]))
        together: list[int] = []
        for sequence, slot in enumerate(self._slots):
            size = sum(len(queries[other]) for other in (*together, sequence))
            if together and (self._slots[together[0]].row != slot.row or size > most):
                yield together
                together = []
            together = [*together, sequence]
        if together:
            yield together

    def _attention_rows(
        self, block: int, selection: AttentionSelection, running: RunningAttention, output: object | None, sequences: Sequence[int]
    ) -> dict[int, Tensor]:
        """The rows of some sequences in one row of the batch, each (head, query, key) or (query, key). The keys are read once for all.

        Args:
            output: the attention call's own output, to compare the rows with; None: no comparison.
        """
        call, row = running.call, self._slots[sequences[0]].row
        parts = [self._slots[sequence].tokens(self._plan.queries[selection][sequence]) for sequence in sequences]
        indices = [index for part in parts for index in part]
        positions = as_indices(indices, call.device)
        rows = call.rows(row, positions)
        if output is not None and indices:  # an empty span compares nothing
            difference = call.check(row, positions, rows, output)
            self.captured.row_differences[block] = max(difference, self.captured.row_differences.get(block, 0.0))
            self._compared.add((block, running.kernel))
        rows = running.with_edited_rows(row, indices, rows)
        self._finite.add(lambda: f"Attention rows of block {block} hold NaN or infinity.", rows)
        if selection.heads == "mean":
            rows = rows.mean(0)
        elif selection.heads != "all":
            rows = _select_heads(rows, selection.heads, "Attention")
        split = rows.split([len(part) for part in parts], dim=-2)
        return {
            sequence: _select_keys(own, call, selection, self._slots[sequence], self._plan.keys[selection][sequence])
            for sequence, own in zip(sequences, split, strict=True)
        }


def steps_over_all_states(
    modules: Modules, rows: RowIndices, slots: Sequence[SequenceSlot], check: FiniteCheck[str], *, with_vision: bool
) -> Iterator[Step]:
    """Steps that check every state in the order of the forward, and keep none.

    Args:
        rows: for each sequence the positions to check; padding may hold anything.
        check: gets each state, under a name for messages.
    """

    def check_tokens(name: str, value: object) -> None:
        for states in select_positions(token_states(value, batch_rows(slots), modules.axes), rows, slots):
            check.add(name, states)

    def check_tower(name: str, value: object) -> None:
        check.add(name, first_tensor(value))

    if with_vision:
        for state in range(len(modules.vision_blocks) + 1):
            yield Step(tower_site(modules, state), partial(check_tower, f"state {state} of the vision tower"))
    if not modules.layers:
        return
    yield Step(hidden_site(modules, 0), partial(check_tokens, "hidden state 0, the embeddings"))
    for block in range(len(modules.layers)):
        name = f"hidden state {block + 1}, the output of decoder block {block}"
        site = state_site(StateAddress("Hidden(normed=False)", block + 1), modules).site if block + 1 == len(modules.layers) else None
        yield Step(site or hidden_site(modules, block + 1), partial(check_tokens, name))


def _not_finite_states(captured: Mapping[tuple[StateAddress, Position | None], Sequence[Tensor]], address: StateAddress) -> str:
    """The message about states; "" if they are finite at the positions that were read."""
    for (other, position), rows in captured.items():
        if other == address and not all(map(is_finite, rows)):
            what = "Hidden states" if address.read == "Hidden" else address.read
            return _not_finite(f"{what} of layer {address.layer}", position)
    return ""


def _not_finite(name: str, position: Position | None) -> str:
    at = "" if position is None else f" at {position_name(position)}"
    return f"{name}{at} hold NaN or infinity."


def _select_heads(rows: Tensor, heads: Sequence[int] | None, read: str) -> Tensor:
    """Some heads of (head, ...); None: all.

    Raises:
        InvalidRead: a head that is not there.
    """
    if heads is None:
        return rows
    if max(heads) >= len(rows):
        raise InvalidRead(f"Head {max(heads)} was asked for, to read {read}, but there are heads 0 to {len(rows) - 1}.")
    return rows.index_select(0, as_indices(heads, rows.device))


def _select_keys(
    rows: Tensor, call: AttentionCall | AttentionWeights, selection: AttentionSelection, slot: SequenceSlot, keys: Indices
) -> Tensor:
    queries, width = call.shape
    tokens = queries + slot.shared + slot.padding
    if width == tokens:
        return rows.index_select(-1, as_indices(slot.keys(keys), rows.device))
    if selection.key is None:  # cross-attention: its keys are not the sequence's positions, and all of them are kept
        return rows.clone()  # a part of the rows of several sequences
    raise InvalidRead(
        f"{call.module_path} attends to {width} keys of its own, not to the sequence of {tokens} tokens. "
        "Read it with key=None, and blocks of self-attention by themselves."
    )
