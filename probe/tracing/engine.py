"""The only code that uses nnsight: run a forward, read its modules in execution order, stop after the last read."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import nnsight
import torch
from nnsight.intervention.interleaver import EarlyStopException, OutOfOrderError
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from probe.errors import InvalidRead, NestedTrace
from probe.tracing.capturing.capture import Capture, steps_over_all_states
from probe.tracing.capturing.captured import Captured
from probe.tracing.capturing.finite import FiniteCheck
from probe.tracing.edits import EditPlan
from probe.tracing.modules import Modules
from probe.tracing.resolving import ReadPlan, RowIndices
from probe.tracing.sites import Step, by_site
from probe.tracing.slots import SequenceSlot
from probe.tracing.visits import ModuleReader, Visit, call_order, did_not_run, in_order

Inputs = TypeVar("Inputs")
Forward = Callable[[Inputs], ModelOutput]
"""Calls the model with its inputs."""

NO_EDITS = EditPlan()


class ModelLock:
    """The lock of a Hugging Face model: one thread at a time runs it, and none of its runs starts inside another."""

    def __init__(self) -> None:
        self._lock, self._traced = threading.RLock(), False

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._traced:
            self._lock.release()
            raise NestedTrace("A run was started inside a run of the same model. Finish the first one, or read both things in one run.")

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @contextmanager
    def traced(self) -> Iterator[None]:
        """A traced forward, whose thread holds the lock: until it ends, entering the lock is an error."""
        self._traced = True
        try:
            yield
        finally:
            self._traced = False


_LOCKS: weakref.WeakKeyDictionary[nn.Module, ModelLock] = weakref.WeakKeyDictionary()


def lock_of(model: PreTrainedModel) -> ModelLock:
    """The lock of a Hugging Face model.

    Wrappers of the same model share it: nnsight's hooks are in the model's own modules.
    """
    return _LOCKS.setdefault(model, ModelLock())


_SERVED = frozenset({"input", "inputs", "output", "skip", "source"})
"""What nnsight serves on every module."""


def envoy_of(model: nnsight.NNsight, path: str) -> nnsight.Envoy:
    """nnsight's handle of a module. A submodule whose name nnsight serves itself, as BERT's `output`, has another name there."""
    envoy: nnsight.Envoy = model
    for name in path.split("."):
        envoy = getattr(envoy, f"{nnsight.Envoy.OVERLOAD_PREFIX}{name}" if name in _SERVED else name)
    return envoy


class Engine:
    """Runs and reads the forwards of one model through nnsight. Runs wait for each other; a run inside a run is an error.

    Attributes:
        lock: hold it around any other forward of the model. Entering it inside a run raises NestedTrace.
    """

    def __init__(self, model: PreTrainedModel, modules: Modules) -> None:
        with warnings.catch_warnings():
            # BERT-like parts have a submodule called `output`: see `envoy_of`.
            warnings.filterwarnings("ignore", message=".*which nnsight already serves on every module")
            self._nnsight = nnsight.NNsight(model)
        self._model, self._modules = model, modules
        self.lock = lock_of(model)
        self._envoys: dict[str, nnsight.Envoy] = {}
        self._compared: set[tuple[int, str]] = set()

    def run(
        self,
        forward: Forward[Inputs],
        inputs: Inputs,
        plan: ReadPlan,
        slots: Sequence[SequenceSlot],
        *,
        edits: EditPlan = NO_EDITS,
        run_to_end: bool = False,
        logits_at: Sequence[int] | None = None,
    ) -> Captured:
        """Run `forward(inputs)` once and capture what the plan asks for.

        Args:
            inputs: the encoded inputs.
            slots: for each sequence of the plan, where it is in the model's tensors.
            edits: what is changed; reads of the same address get what the edits leave.
            run_to_end: run the forward to its end, as to fill a cache. Otherwise it stops after the last read, unless logits are read.
            logits_at: the token-axis indices of which the forward computes logits; None: all.

        Raises:
            NestedTrace: called from inside a run of the same model.
            InvalidRead: a module that is read does not run for these inputs, such as the vision tower without an image.
            UnmodelledAttention, WrongRows: attention rows cannot be read exactly.
            NotFinite: something that was read holds NaN or infinity.
        """
        capture = Capture(plan, slots, self._modules, self._compared)
        steps = [*edits.steps(slots), *capture.steps()]
        output = self._run(forward, inputs, steps, run_to_end=run_to_end or bool(plan.logits))
        if output is not None:
            capture.take_logits(output, logits_at)
        capture.refuse_not_finite()
        return capture.captured

    def run_edited(
        self, forward: Forward[Inputs], inputs: Inputs, edits: EditPlan, slots: Sequence[SequenceSlot], *, gradients: bool = False
    ) -> ModelOutput:
        """Run a forward under edits, read nothing, and return its output.

        Args:
            gradients: record the graph for `torch.autograd`, from the first tensor on that an edit makes require gradients.

        Raises:
            NestedTrace, InvalidRead, InvalidEdit, UnmodelledAttention.
        """
        output = self._run(forward, inputs, edits.steps(slots), run_to_end=True, gradients=gradients)
        assert output is not None, "a forward that runs to its end returns something"
        return output

    def first_not_finite_state(
        self, forward: Forward[Inputs], inputs: Inputs, rows: RowIndices, slots: Sequence[SequenceSlot], edits: EditPlan = NO_EDITS
    ) -> str:
        """The first state of a forward that holds NaN or infinity; "" if all states are finite.

        Args:
            rows: for each sequence the positions to check; padding may hold anything.
        """
        for with_vision in (True, False) if self._modules.vision_blocks else (False,):
            check = FiniteCheck[str]()
            steps = steps_over_all_states(self._modules, rows, slots, check, with_vision=with_vision)
            try:
                self._run(forward, inputs, [*edits.steps(slots), *steps], run_to_end=False)
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
        gradients: bool = False,
    ) -> ModelOutput | None:
        """Run a forward and read its modules; returns its output, or None if it was stopped after the last read."""
        with self.lock:
            reader = ModuleReader(self._envoy, self._visits(forward, inputs, steps, run_to_end=run_to_end))
            try:
                # Leaving inference mode enables gradients, even where the caller disabled them.
                with torch.inference_mode(False) if gradients else torch.no_grad():
                    # A user's forward hook runs after the point at which nnsight would stop the forward, so let it run to its end.
                    return self._trace(forward, inputs, reader, run_to_end=run_to_end or reader.has_hooked_outputs, passes=None)
            except OutOfOrderError as error:
                raise self._did_not_run(error, [site.module for site, _ in reader.visits]) from error
            finally:
                reader.remove_hooks()

    def generate(
        self, generation: Forward[Inputs], inputs: Inputs, forward: Forward[Inputs], steps_at: Callable[[int], Sequence[Step]]
    ) -> ModelOutput:
        """Run a generation whose passes are edited; returns what it returns.

        Args:
            generation: calls the model's generate() with the inputs.
            forward: one forward over the prompt, to find out in which order it reaches the modules of `Module` edits.
            steps_at: the steps of a pass: 0 has the prompt, k the k-th new token. Without any, the rest runs unedited.

        Raises:
            NestedTrace, InvalidRead, UnmodelledAttention, InvalidEdit.
        """

        with self.lock:
            first = by_site(steps_at(0))
            calls = call_order(self._model, partial(forward, inputs), first)
            reader = ModuleReader(self._envoy, in_order(first, calls))

            def visits_at(number: int) -> Sequence[Visit]:
                return in_order(by_site(steps_at(number)), calls) if number else reader.visits

            try:
                with torch.no_grad(), warnings.catch_warnings():
                    # The loop over the passes is open: it ends when the generation does, of which nnsight warns.
                    warnings.filterwarnings("ignore", category=UserWarning, module="nnsight")
                    output = self._trace(generation, inputs, reader, run_to_end=True, passes=visits_at)
            except OutOfOrderError as error:
                raise self._did_not_run(error, [site.module for site, _ in reader.visits]) from error
            finally:
                reader.remove_hooks()
        assert output is not None, "a generation that runs to its end returns something"
        return output

    def _visits(self, forward: Forward[Inputs], inputs: Inputs, steps: Sequence[Step], *, run_to_end: bool) -> list[Visit]:
        """The steps of each site, in the order of the forward; without edits behind the last read, which would change nothing."""
        visits = by_site(steps)
        visits = in_order(visits, call_order(self._model, partial(forward, inputs), visits))
        while visits and not run_to_end and all(step.edits for step in visits[-1][1]):
            visits.pop()
        return visits

    def _trace(
        self,
        forward: Forward[Inputs],
        inputs: Inputs,
        reader: ModuleReader,
        *,
        run_to_end: bool,
        passes: Callable[[int], Sequence[Visit]] | None,
    ) -> ModelOutput | None:
        """Run a forward, or with `passes` a generation of several, each with its own visits."""
        output: dict[str, ModelOutput] = {}

        def kept(given: Inputs) -> ModelOutput:
            output["forward"] = forward(given)
            return output["forward"]

        model, stops = self._nnsight, list[EarlyStopException]()
        with self.lock.traced(), model.trace(inputs, fn=kept) as tracer:
            for number in tracer.iter[:] if passes else range(1):
                visits = passes(number) if passes else reader.visits
                for site, steps in visits:
                    reader.visit(site, steps)
                if not visits:
                    break
            if not run_to_end:
                try:
                    tracer.stop()
                except EarlyStopException as stop:
                    stops.append(stop)
                    raise
        while stops:
            _drop_frames(stops.pop())
        return output.get("forward")

    def _envoy(self, path: str) -> nnsight.Envoy:
        """`envoy_of`, looked up once for all runs."""
        if path not in self._envoys:
            self._envoys[path] = envoy_of(self._nnsight, path)
        return self._envoys[path]

    def _did_not_run(self, error: OutOfOrderError, modules: Sequence[str]) -> InvalidRead:
        module = max((path for path in modules if path in str(error)), key=len, default="a module")
        return did_not_run(module, self._modules.vision)


def _drop_frames(stop: EarlyStopException) -> None:
    """Drop the frames of an error that was handled.

    Some of them hold the error, which holds them all: this cycle, with the forward's tensors and the locals of every caller, would stay until
    Python's garbage collector comes by.
    """
    vars(stop).clear()  # nnsight's copy of the traceback
    stop.__traceback__ = stop.__context__ = None
