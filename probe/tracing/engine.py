"""The only code that uses nnsight: run a forward, read its modules in execution order, stop after the last read."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import TypeVar

import nnsight
import torch
from nnsight.intervention.interleaver import OutOfOrderError
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from probe.errors import InvalidRead, NestedTrace
from probe.tracing.attention import AttentionCall, AttentionWeights, RunningAttention
from probe.tracing.capture import Capture, Captured, Step, steps_over_all_states
from probe.tracing.finite import FiniteCheck
from probe.tracing.hooks import forward_hooks
from probe.tracing.modules import Modules
from probe.tracing.resolving import ReadPlan, RowIndices, SequenceSlot

Inputs = TypeVar("Inputs")
Forward = Callable[[Inputs], ModelOutput]
"""Calls the model with its inputs."""

_LOCKS: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()


def lock_of(model: PreTrainedModel) -> threading.RLock:
    """The lock of a Hugging Face model.

    Wrappers of the same model share it: nnsight's hooks are in the model's own modules.
    """
    return _LOCKS.setdefault(model, threading.RLock())


class Engine:
    """Runs and reads the forwards of one model through nnsight. Runs wait for each other; a run inside a run is an error.

    Attributes:
        lock: hold it around any other forward of the model.
    """

    def __init__(self, model: PreTrainedModel, modules: Modules) -> None:
        with warnings.catch_warnings():
            # BERT-like parts have a submodule called `output`. We read none by that name.
            warnings.filterwarnings("ignore", message=".*which nnsight already serves on every module")
            self._nnsight = nnsight.NNsight(model)
        self._model, self._modules = model, modules
        self.lock = lock_of(model)
        self._compared: set[tuple[int, str]] = set()

    def run(
        self,
        forward: Forward[Inputs],
        inputs: Inputs,
        plan: ReadPlan,
        slots: Sequence[SequenceSlot],
        *,
        run_to_end: bool = False,
    ) -> Captured:
        """Run `forward(inputs)` once and capture what the plan asks for.

        Args:
            inputs: the encoded inputs.
            slots: for each sequence of the plan, where it is in the model's tensors.
            run_to_end: run the forward to its end, as to fill a cache. Otherwise it stops after the last read, unless logits are read.

        Raises:
            NestedTrace: called from inside a run of the same model.
            InvalidRead: a module that is read does not run for these inputs, such as the vision tower without an image.
            UnmodelledAttention, WrongRows: attention rows cannot be read exactly.
            NotFinite: something that was read holds NaN or infinity.
        """
        capture = Capture(plan, slots, self._modules, self._compared)
        output = self._run(forward, inputs, capture.steps(), run_to_end=run_to_end or bool(plan.logits))
        if output is not None:
            capture.take_logits(output)
        capture.refuse_not_finite()
        return capture.captured

    def first_not_finite_state(self, forward: Forward[Inputs], inputs: Inputs, rows: RowIndices, slots: Sequence[SequenceSlot]) -> str:
        """The first state of a forward that holds NaN or infinity; "" if all states are finite.

        Args:
            rows: for each sequence the positions to check; padding may hold anything.
        """
        for with_vision in (True, False) if self._modules.vision_blocks else (False,):
            check = FiniteCheck[str]()
            steps = steps_over_all_states(self._modules, rows, slots, check, with_vision=with_vision)
            try:
                self._run(forward, inputs, list(steps), run_to_end=False)
            except InvalidRead:  # without an image the tower does not run
                continue
            return next(iter(check.failed()), "")
        return ""

    def _run(
        self,
        forward: Forward[Inputs],
        inputs: Inputs,
        steps: Sequence[Step],
        *,
        run_to_end: bool,
    ) -> ModelOutput | None:
        """Run a forward and read its modules; returns its output, or None if it was stopped after the last read."""
        with self.lock:
            if self._nnsight.interleaver.interleaving:
                raise NestedTrace("A run was started inside a run of the same model. Finish the first one, or read both things in one run.")
            reader = ModuleReader(self._model, steps)
            try:
                with torch.no_grad():
                    # A user's forward hook runs after the point at which nnsight would stop the forward, so let it run to its end.
                    return self._trace(forward, inputs, reader, run_to_end=run_to_end or reader.has_hooked_outputs)
            except OutOfOrderError as error:
                raise self._did_not_run(error, steps) from error
            finally:
                reader.remove_hooks()

    def _trace(self, forward: Forward[Inputs], inputs: Inputs, reader: ModuleReader, *, run_to_end: bool) -> ModelOutput | None:
        output: dict[str, ModelOutput] = {}
        model = self._nnsight
        with model.trace(inputs, fn=forward) as tracer:
            for step in reader.steps:
                reader.read(model.get(step.module), step)
            if run_to_end:
                output["forward"] = tracer.result
            else:
                tracer.stop()
        return output.get("forward")

    def _did_not_run(self, error: OutOfOrderError, steps: Sequence[Step]) -> InvalidRead:
        named = [step.module for step in steps if step.module in str(error)]
        module = max(named, key=len, default="a module")
        advice = "Vision states need an image in the input" if module in self._modules.vision_blocks else "Read something else"
        return InvalidRead(f"{module} was to be read, which does not run for these inputs. {advice}.")


class ModuleReader:
    """Reads modules through their nnsight envoys, while the forward waits there.

    Attributes:
        steps: the reads, in execution order.
    """

    def __init__(self, model: nn.Module, steps: Sequence[Step]) -> None:
        self.steps = steps
        self._hooked = {step.module for step in steps if step.part == "output" and forward_hooks(model.get_submodule(step.module))}
        self._own_hooks: list[RemovableHandle] = []

    @property
    def has_hooked_outputs(self) -> bool:
        """Whether a module whose output is read has forward hooks of the user, which may change that output."""
        return bool(self._hooked)

    def read(self, envoy: nnsight.Envoy, step: Step) -> None:
        """Pass the step the value that it reads."""
        if step.part == "attention":
            step.take(_running_attention(envoy))
        elif step.part == "input":
            step.take(envoy.input)
        elif step.module in self._hooked:
            self._read_behind_hooks(envoy, step)
        else:
            step.take(envoy.output)

    def remove_hooks(self) -> None:
        """Remove the hooks that steps have added and that did not run."""
        while self._own_hooks:
            self._own_hooks.pop().remove()

    def _read_behind_hooks(self, envoy: nnsight.Envoy, step: Step) -> None:
        """Pass the step the output that the module's forward hooks leave.

        nnsight waits inside the module's forward, before its hooks. A hook that is added now runs in the same call, as the last one.
        """
        _ = envoy.output

        def take_output(_module: nn.Module, _inputs: object, output: object) -> None:
            handle.remove()  # the first of several calls of a module is read
            step.take(output)

        handle = envoy._module.register_forward_hook(take_output)
        self._own_hooks.append(handle)


def _running_attention(envoy: nnsight.Envoy) -> RunningAttention:
    """The attention call inside a module's forward; of a module that does not call the interface, the weights that it returns."""
    kernel = str(getattr(getattr(envoy._module, "config", None), "_attn_implementation", ""))
    calls = [name for name in envoy.source.names if name.startswith("attention_interface_")]
    if not calls:
        return RunningAttention(AttentionWeights.from_output(envoy.output, envoy.path), kernel, lambda: envoy.output)
    operation = getattr(envoy.source, calls[-1])
    return RunningAttention(AttentionCall.from_inputs(operation.inputs, envoy.path), kernel, lambda: operation.output)
