"""Gradients of a metric of the logits with respect to what can be read, by autograd through the running model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.attribution.metrics import LogitDifference, TokenDifference, differences_of_rows
from probe.errors import InvalidRead, NotFinite
from probe.inputs.encoding import Encoding
from probe.runtime import Batch, Runtime
from probe.tokens.integers import as_int
from probe.tracing.capturing.capture import Capture
from probe.tracing.capturing.captured import Captured, select_positions
from probe.tracing.capturing.finite import advice
from probe.tracing.edits import Edit, EditPlan, kinds
from probe.tracing.edits.kinds import Operand
from probe.tracing.edits.state_edits import StateEdit
from probe.tracing.reads import AttentionOutput, HeadOutput, Hidden, MLPOutput, Projected, Read, check_read
from probe.tracing.resolving import ReadPlan
from probe.tracing.sites import Site, StateAddress, StateSite, Step, state_site
from probe.tracing.slots import SequenceSlot, batch_rows
from probe.tracing.trace import Trace

Metric = LogitDifference | TokenDifference | Callable[[Float[Tensor, "token vocabulary"]], Float[Tensor, ""]]
"""What is differentiated: a difference of two logits, or a function from a row's logits to one number."""
Method = Literal["gradient", "input_x_gradient", "integrated"]

METHODS: tuple[Method, ...] = ("gradient", "input_x_gradient", "integrated")
LARGEST_GAP = 0.05
"""Integrated gradients that miss this share of the metric's change are warned of."""

STRETCH = 10.0
"""Near the baseline, steps are exp(-STRETCH) of those at the value."""

_KINDS = (Hidden, Projected, AttentionOutput, MLPOutput, HeadOutput)
_RowMetrics = Sequence[Callable[[Tensor], Tensor]]


def gradients(
    runtime: Runtime,
    encoding: Encoding | Mapping[str, Tensor],
    of: Metric,
    to: Sequence[Read],
    *,
    method: Method,
    steps: int,
    baseline: Operand | None,
    edits: Sequence[Edit],
) -> Trace:
    """Gradients of a metric: see `Probe.gradients`."""
    count = _checked_steps(method, steps, baseline)
    batch = _outside_inference_mode(runtime.batch(encoding))
    reads = tuple(dict.fromkeys(map(_checked_read, to)))
    if not reads:
        raise InvalidRead("No reads were given. Name what the gradient is taken with respect to, such as to=probe.Hidden(3, at='image').")
    plan = runtime.resolve(reads, batch.tokens)
    passes = Passes(runtime, batch, _row_metrics(of, encoding, batch, runtime), edits)
    if method == "integrated":
        plans = [runtime.resolve([read], batch.tokens) for read in reads]
        captured = _integrated(passes, plans, _baselines(runtime, batch, reads, plans, baseline), count)
    else:
        captured = passes.differentiate(plan, times_value=method == "input_x_gradient")
    return runtime.trace(batch.tokens, captured, plan)


@dataclass(eq=False)
class Differentiated:
    """The states of a site, as a tensor of the graph that goes back from the metric: an edit that changes no value.

    It becomes a leaf where nothing before it is in the graph, so that a pass records only what is behind the first of several sites.

    Attributes:
        adapter: the site, and how its value is seen.
        path: the value that is set, from the value at the site and the slots; None: the value itself.
        states: the tensor, once the forward has reached the site.
    """

    adapter: StateSite
    path: Callable[[object, Sequence[SequenceSlot]], Tensor] | None = None
    states: Tensor | None = None

    def step(self, slots: Sequence[SequenceSlot]) -> Step:
        """See `ResolvedEdit.step`."""

        def act(value: object) -> object:
            states = self.adapter.view(value, batch_rows(slots)) if self.path is None else self.path(value, slots).detach()
            self.states = states if states.requires_grad else states.detach().requires_grad_()
            # A copy goes on: a block may write into what it is given, which autograd does not allow in a leaf.
            return self.adapter.replaced(value, self.states.clone())

        return Step(self.adapter.site, act, edits=True)


@dataclass(frozen=True)
class Path:
    """One step of the straight way from a baseline to the value of a read at one layer.

    Attributes:
        change: sets the baseline.
        fraction: of the way.
    """

    change: StateEdit
    fraction: float

    def __call__(self, value: object, slots: Sequence[SequenceSlot]) -> Tensor:
        """The states on the way: at the read's positions between baseline and value, elsewhere the value."""
        return torch.lerp(self.baseline(value, slots), self.change.adapter.view(value, batch_rows(slots)), self.fraction)

    def baseline(self, value: object, slots: Sequence[SequenceSlot]) -> Tensor:
        """The states with the baseline in place."""
        changed = self.change.step(slots).act(value)
        return self.change.adapter.view(value if changed is None else changed, batch_rows(slots))


@dataclass(frozen=True)
class Passes:
    """Forwards of one batch that are differentiated.

    Attributes:
        metrics: of each row of the batch.
        edits: in force in each pass.
    """

    runtime: Runtime
    batch: Batch
    metrics: _RowMetrics
    edits: Sequence[Edit]

    def differentiate(self, plan: ReadPlan, *, times_value: bool) -> Captured:
        """The gradients of all reads of a plan, by one forward and one backward."""
        sites = {address: Differentiated(state_site(address, self.runtime.modules)) for address in plan.states}
        _, found = self.run(list(sites.values()))
        values = {
            one.adapter.site: gradient * one.states.detach() if times_value and one.states is not None else gradient
            for one, gradient in found
        }
        return self.capture(plan, values)

    def run(self, sites: Sequence[Differentiated]) -> tuple[float, list[tuple[Differentiated, Tensor]]]:
        """The metric, summed over the rows, and its gradient with respect to the states of each site."""
        with torch.inference_mode(False):
            value = self._metric(sites)
            tensors = [cast(Tensor, one.states) for one in sites]
            found = torch.autograd.grad(value, tensors, allow_unused=True, materialize_grads=True)
        return float(value.detach()), list(zip(sites, found, strict=True))

    def value(self, sites: Sequence[Differentiated]) -> float:
        """The metric alone, summed over the rows."""
        with torch.inference_mode(False):
            return float(self._metric(sites).detach())

    def capture(self, plan: ReadPlan, values: Mapping[Site, Tensor]) -> Captured:
        """The gradients at the positions and heads of a plan, as a forward's states are captured."""
        capture = Capture(plan, self.batch.slots, self.runtime.modules, set())
        for step in capture.steps():
            step.act(values[step.site])
        try:
            capture.refuse_not_finite()
        except NotFinite as error:
            raise NotFinite(f"The gradient is not finite. {error} {advice(self.runtime.model.dtype)}") from error
        return capture.captured

    def _metric(self, sites: Sequence[Differentiated]) -> Tensor:
        runtime, batch = self.runtime, self.batch
        changes = runtime.resolve_edits(self.edits, batch.tokens)
        output = runtime.engine.run_edited(runtime.forward, batch.inputs, EditPlan((*changes.edits, *sites)), batch.slots, gradients=True)
        logits: Tensor = output.logits
        rows = select_positions(logits, tuple(tuple(range(len(tokens))) for tokens in batch.tokens), batch.slots)
        value = torch.stack([_scalar(metric(row)) for metric, row in zip(self.metrics, rows, strict=True)]).sum()
        if not bool(torch.isfinite(value)):
            raise NotFinite(f"The metric is {float(value.detach())}. {advice(runtime.model.dtype)}")
        if not value.requires_grad:
            raise InvalidRead(
                "The metric does not depend on what is read here by differentiable operations of torch. Return a number that is computed from "
                "the logits."
            )
        return value


def _integrated(passes: Passes, plans: Sequence[ReadPlan], changes: Sequence[Sequence[StateEdit]], steps: int) -> Captured:
    """The integrated gradients of each read at each of its layers, each on a way of its own."""
    captured = Captured()
    for plan, of_layers in zip(plans, changes, strict=True):
        for address, change in zip(plan.states, of_layers, strict=True):
            values = {change.adapter.site: _integral(passes, change, steps, address)}
            one = passes.capture(replace(plan, states={address: plan.states[address]}), values)
            captured.states.update(one.states)
    return captured


def _integral(passes: Passes, change: StateEdit, steps: int, address: StateAddress) -> Tensor:
    """The mean gradient on the way from the baseline to the value, times the way: float32, 0 outside the read."""
    first, last = (Differentiated(change.adapter, Path(change, fraction)) for fraction in (0.0, 1.0))
    difference = -passes.value([first]) + passes.value([last])
    moved = cast(Tensor, last.states).detach().float() - cast(Tensor, first.states).detach().float()
    total = torch.zeros_like(moved)
    for fraction, weight in _nodes(steps):
        _, ((_, gradient),) = passes.run([Differentiated(change.adapter, Path(change, fraction))])
        total += weight * gradient.float()
    found = total * moved
    _warn_of_gap(float(found.sum()), difference, steps, address)
    return found


def _nodes(steps: int) -> Iterator[tuple[float, float]]:
    """(fraction, weight) of Gauss and Legendre's rule over the logarithm of the fraction, nearly.

    A norm makes of a state near 0 one of full length: with a baseline of 0, much of the change happens in the first thousandth of the way.
    """
    points, weights = np.polynomial.legendre.leggauss(steps)
    for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
        slope = STRETCH * np.exp(STRETCH * point) / np.expm1(STRETCH)
        yield float(np.expm1(STRETCH * point) / np.expm1(STRETCH)), float(weight * slope)


def _warn_of_gap(total: float, difference: float, steps: int, address: StateAddress) -> None:
    if abs(total - difference) > LARGEST_GAP * abs(difference):
        warnings.warn(
            f"Integrated gradients of {address.read} at layer {address.layer} sum to {total:.3g}, and the metric changes by {difference:.3g} "
            f"from the baseline to the value: {steps} steps are too few. Pass more.",
            stacklevel=6,
        )


def _baselines(
    runtime: Runtime, batch: Batch, reads: Sequence[Read], plans: Sequence[ReadPlan], baseline: Operand | None
) -> list[list[StateEdit]]:
    """For each read the edits that set its baseline, layer by layer.

    Raises:
        InvalidRead: two reads of one layer.
        InvalidEdit: a baseline of another shape.
    """
    seen: dict[StateAddress, Read] = {}
    for read, plan in zip(reads, plans, strict=True):
        for address in plan.states:
            if seen.setdefault(address, read) is not read:
                raise InvalidRead(
                    f"{seen[address]!r} and {read!r} are both of layer {address.layer}, and each is integrated on a way of its own. Ask for "
                    "them in two calls, or as one read of both positions."
                )
    edits = [kinds.zero(read) if baseline is None else kinds.replace(read, baseline) for read in reads]
    resolved = [runtime.resolve_edits([edit], batch.tokens).edits for edit in edits]
    return [[edit for edit in layers if isinstance(edit, StateEdit)] for layers in resolved]


def _row_metrics(of: Metric, encoding: object, batch: Batch, runtime: Runtime) -> _RowMetrics:
    """The metric of each row of the batch, a function of the row's logits."""
    if isinstance(of, (LogitDifference, TokenDifference)):
        return [partial(_at, difference) for difference in differences_of_rows(of, encoding, batch.tokens, runtime)]
    if not callable(of):
        raise InvalidRead(f"of= takes a probe.LogitDifference, or a function from logits (token, vocabulary) to one number; got {of!r}.")
    return [of] * len(batch.tokens)


def _at(difference: TokenDifference, logits: Tensor) -> Tensor:
    return difference(logits[difference.at])


def _scalar(value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise InvalidRead(f"The metric returned {got}. Return one number of a row's logits (token, vocabulary), as a tensor.")
    return value.reshape(()).float()


def _checked_read(read: object) -> Read:
    known = check_read(read)
    if not isinstance(known, _KINDS):
        *names, last = (kind.__name__ for kind in _KINDS)
        raise InvalidRead(f"Gradients are taken with respect to {', '.join(names)} or {last}; got {read!r}.")
    return known


def _checked_steps(method: object, steps: object, baseline: object) -> int:
    if method not in METHODS:
        raise InvalidRead(f"method={method!r}: one of {', '.join(map(repr, METHODS))} was expected.")
    if baseline is not None and method != "integrated":
        raise InvalidRead(f"baseline= is where integrated gradients start; method={method!r} has none.")
    count = as_int(steps)
    if count is None or count < 1:
        raise InvalidRead(f"steps={steps!r}: how many gradients are averaged, an integer from 1.")
    return count


def _outside_inference_mode(batch: Batch) -> Batch:
    """The batch with inputs that autograd may keep: those that were made in inference mode are copied."""
    with torch.inference_mode(False):
        copied = {
            name: value.clone() if isinstance(value, Tensor) and value.is_inference() else value for name, value in batch.inputs.items()
        }
    return replace(batch, inputs=copied)
