"""An attention module while its forward runs: its call can be read and changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from probe.errors import UnmodelledAttention
from probe.tracing.attention.call import AttentionCall
from probe.tracing.attention.values import first_tensor, with_first_tensor
from probe.tracing.attention.weights import AttentionWeights


class Operation(Protocol):
    """An attention call inside a running forward: what it gets and what it returns, both replaceable."""

    inputs: tuple[Sequence[object], Mapping[str, object]]
    output: object


class RunningAttention:
    """An attention module during its forward.

    Attributes:
        call: the arguments of its attention call, or the weights that the module returns. Replacing the arguments changes the forward.
        kernel: name of the attention implementation.
    """

    call: AttentionCall | AttentionWeights

    def __init__(self, operation: Operation, module_path: str, kernel: str) -> None:
        self._operation, self.kernel = operation, kernel
        self._inputs = operation.inputs
        self._running = self.call = AttentionCall.from_inputs(self._inputs, module_path)
        self._edited_rows: dict[tuple[int, int], tuple[set[int], Tensor]] = {}

    @property
    def interface_call(self) -> AttentionCall:
        """The arguments of the attention call.

        Raises:
            UnmodelledAttention: the module does not call transformers' attention interface.
        """
        if not isinstance(self.call, AttentionCall):
            raise UnmodelledAttention(
                f"{self.call.module_path} computes its attention without transformers' attention interface, which has its queries and keys."
            )
        return self.call

    def output(self) -> object:
        """The attention call's own output, for which the forward has to go on; its arguments cannot be replaced afterwards."""
        self._pass_on_inputs()
        return self._operation.output

    def replace_rows(self, batch: int, position: int, heads: Sequence[int], rows: Float[Tensor, "head key"]) -> None:
        """Have the heads of one query attend by these weights.

        Args:
            position: query-axis index.
            heads: the heads that are changed.
            rows: of all heads.
        """
        changed, _ = self._edited_rows.get((batch, position), (set(), rows))
        self._edited_rows[batch, position] = (changed | set(heads), rows)

    def with_edited_rows(self, batch: int, positions: Sequence[int], rows: Float[Tensor, "head row key"]) -> Float[Tensor, "head row key"]:
        """The rows of some queries, those that `replace_rows` has replaced among them."""
        edited = {number: self._edited_rows[batch, at][1] for number, at in enumerate(positions) if (batch, at) in self._edited_rows}
        if edited:
            rows = rows.clone()
            for number, weights in edited.items():
                rows[:, number] = weights
        return rows

    def finish(self) -> None:
        """Pass on to the forward what was replaced."""
        self._pass_on_inputs()
        if self._edited_rows:
            output = self._operation.output
            self._operation.output = with_first_tensor(output, self._output_of_rows(first_tensor(output)))

    def _pass_on_inputs(self) -> None:
        if self.call is not self._running and isinstance(self.call, AttentionCall):
            self._operation.inputs = self.call.to_inputs(self._inputs)
            self._running = self.call

    def _output_of_rows(self, output: Tensor) -> Tensor:
        """The output (batch, query, head, feature) in which replaced rows are weights @ values."""
        call, changed = self.interface_call, output.clone()
        for (batch, position), (heads, rows) in self._edited_rows.items():
            edited = sorted(heads)
            value = call.value[batch].repeat_interleave(rows.shape[0] // call.value.shape[1], dim=0)[edited]
            attended = (rows[edited, None] @ value.to(rows.dtype))[:, 0]
            at = changed[batch, position].view(rows.shape[0], -1)
            at[edited] = attended.to(output.dtype)
        return changed


class ReturnedWeights(RunningAttention):
    """An attention module that computes its weights itself and returns them."""

    def __init__(self, output: object, module_path: str) -> None:
        self._edited_rows = {}
        self.kernel, self._value = "", output
        self.call = AttentionWeights.from_output(output, module_path)

    def output(self) -> object:
        """The module's output."""
        return self._value

    def finish(self) -> None:
        """There is nothing to pass on: these weights cannot be replaced."""
