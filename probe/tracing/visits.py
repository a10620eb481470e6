"""Visits: what is done at each site while a forward waits there, and the order in which a forward reaches the sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, cast

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from probe.errors import InvalidRead, UnmodelledAttention
from probe.tracing.attention import Operation, RunningAttention
from probe.tracing.hooks import forward_hooks
from probe.tracing.sites import UNKNOWN_ORDER, Site, Step

Visit = tuple[Site, list[Step]]
"""A site, and the steps that are done there."""
CallOrder = Mapping[tuple[str, str], int]
"""(module path, "input" or "output") -> when a forward reaches it."""


class Source(Protocol):
    """The operations inside a module's forward."""

    names: Sequence[str]


class Envoy(Protocol):
    """nnsight's handle of a module while its forward runs: its values can be taken and replaced."""

    path: str
    input: object
    output: object
    source: Source
    _module: nn.Module

    def skip(self, replacement: object) -> None:
        """Leave the module out; the replacement is its output."""


def call_order(model: nn.Module, forward: Callable[[], object], visits: Sequence[Visit]) -> CallOrder | None:
    """When a forward reaches the modules, found out by one forward; None: they are known to be in order.

    Raises:
        InvalidRead: a module does not run for these inputs.
    """
    if all(site.order != UNKNOWN_ORDER for site, _ in visits):
        return None
    calls: dict[tuple[str, str], int] = {}
    hooks: list[RemovableHandle] = []
    for path in {site.module for site, _ in visits}:
        module = model.get_submodule(path)
        hooks += [
            module.register_forward_pre_hook(partial(_note_call, calls, (path, "input"))),
            module.register_forward_hook(partial(_note_call, calls, (path, "output"))),
        ]
    try:
        with torch.no_grad():
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    for site, _ in visits:
        if (site.module, "output") not in calls:
            raise did_not_run(site.module)
    return calls


def in_order(visits: list[Visit], calls: CallOrder | None) -> list[Visit]:
    """The visits in the order in which a forward reaches their modules; those of one site become one."""
    if calls is None:
        return visits
    merged: dict[tuple[str, str], Visit] = {}
    for site, steps in visits:
        known = merged.get((site.module, site.part))
        both = steps if known is None else sorted((*known[1], *steps), key=lambda step: (not step.edits, step.number))
        merged[site.module, site.part] = (site, both)

    def order(visit: Visit) -> tuple[int, bool]:
        site, _ = visit
        return calls[site.module, "output" if site.part == "output" else "input"], site.part == "attention"

    return sorted(merged.values(), key=order)


def _note_call(calls: dict[tuple[str, str], int], call: tuple[str, str], *_: object) -> None:
    calls.setdefault(call, len(calls))


def did_not_run(module: str, tower: str = "") -> InvalidRead:
    """The error of a module that a forward does not reach.

    Args:
        tower: the path of the vision tower.
    """
    advice = "Vision states need an image in the input" if tower and module.startswith(tower) else "Read something else"
    return InvalidRead(f"{module} was to be read, which does not run for these inputs. {advice}.")


class ModuleReader:
    """Visits modules through their nnsight envoys, while the forward waits there.

    Args:
        envoy: the envoy of a module's path.

    Attributes:
        visits: the steps of each site, in execution order.
    """

    def __init__(self, envoy: Callable[[str], Envoy], visits: Sequence[Visit]) -> None:
        self.visits: Sequence[Visit] = visits
        self._envoy = envoy
        self._hooked = {site.module for site, _ in visits if site.part == "output" and forward_hooks(envoy(site.module)._module)}
        self._own_hooks: list[RemovableHandle] = []

    @property
    def has_hooked_outputs(self) -> bool:
        """Whether a module whose output is read has forward hooks of the user, which may change that output."""
        return bool(self._hooked)

    def visit(self, site: Site, steps: Sequence[Step]) -> None:
        """Pass the value of a site to its steps, and what they leave to the forward."""
        envoy = self._envoy(site.module)
        if steps[0].skips:
            envoy.skip(_passed_through(None, steps))
        elif site.part == "attention":
            running = _running_attention(envoy)
            _passed_through(running, steps)
            running.finish()
        elif site.part == "input":
            value = envoy.input
            if (changed := _passed_through(value, steps)) is not value:
                envoy.input = changed
        elif site.module in self._hooked:
            self._visit_behind_hooks(envoy, steps)
        else:
            value = envoy.output
            if (changed := _passed_through(value, steps)) is not value:
                envoy.output = changed

    def remove_hooks(self) -> None:
        """Remove the hooks that steps have added and that did not run."""
        while self._own_hooks:
            self._own_hooks.pop().remove()

    def _visit_behind_hooks(self, envoy: Envoy, steps: Sequence[Step]) -> None:
        """Pass the steps the output that the module's forward hooks leave.

        nnsight waits inside the module's forward, before its hooks. A hook that is added now runs in the same call, as the last one.
        """
        _ = envoy.output

        def take_output(_module: nn.Module, _inputs: object, output: object) -> object:
            handle.remove()  # the first of several calls of a module is read
            return _passed_through(output, steps)

        handle = envoy._module.register_forward_hook(take_output)
        self._own_hooks.append(handle)


def _passed_through(value: object, steps: Sequence[Step]) -> object:
    """The value that the steps of a site leave; the same object if none changes it."""
    for step in steps:
        changed = step.act(value)
        value = value if changed is None else changed
    return value


def _running_attention(envoy: Envoy) -> RunningAttention:
    """The attention call inside a module's forward.

    Raises:
        UnmodelledAttention: the module makes none.
    """
    kernel = str(getattr(getattr(envoy._module, "config", None), "_attn_implementation", ""))
    calls = [name for name in envoy.source.names if name.startswith("attention_interface_")]
    if not calls:
        raise UnmodelledAttention(f"{envoy.path} does not call transformers' attention interface. Hidden states can be read.")
    return RunningAttention(cast(Operation, getattr(envoy.source, calls[-1])), envoy.path, kernel)
