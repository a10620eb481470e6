"""The sites of a forward: the modules at which it is read and edited, and how their values are seen as states of positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Literal, cast

from torch import Tensor

from probe.tracing.attention import RunningAttention, first_tensor, with_first_tensor

if TYPE_CHECKING:
    from probe.tracing.modules import Modules

Part = Literal["input", "output", "attention"]
"""What is read of a module: its first input, its output, or the attention call inside its forward."""

UNKNOWN_ORDER = (-1, -1, -1)
"""The order of a module that is read by its path; the engine finds it out."""

_TOWER, _DECODER = 0, 1
_INPUT, _ATTENTION, _PROJECTION, _ATTENTION_OUTPUT, _MLP_OUTPUT, _OUTPUT, _AFTER = range(7)


@dataclass(frozen=True)
class Site:
    """A module at which a forward is read or edited.

    Attributes:
        order: (tower or decoder, block, part of the block). A forward reaches the sites in this order, and has to be read in it.
        module: its path.
        part: what is read of it.
    """

    order: tuple[int, int, int]
    module: str
    part: Part


@dataclass(frozen=True)
class Step:
    """What is done at one site.

    Attributes:
        site: where.
        act: gets the value, for the part "attention" a `RunningAttention`. It returns the value with which the forward goes on; None: the
            same.
        edits: whether it changes the value.
        skips: whether the module is left out: `act` gets None, and returns the output that takes its place. The first step of its site.
        number: of its edit: those of one site are done in this order.
    """

    site: Site
    act: Callable[..., object]
    edits: bool = False
    skips: bool = False
    number: int = 0


@dataclass(frozen=True)
class StateAddress:
    """States of positions at one layer.

    Attributes:
        read: the name of the read, such as "Hidden".
        layer: its layer, counted from 0.
    """

    read: str
    layer: int


_CallTensor = Literal["query", "key", "value"]
_CALL_TENSORS: dict[str, _CallTensor] = {"Queries": "query", "Keys": "key", "Values": "value"}

BEFORE_NORM = "Hidden(normed=False)"
"""The `StateAddress.read` of the last hidden state before the final norm; of other layers it is the same as "Hidden"."""


@dataclass(frozen=True)
class StateSite:
    """A site whose value has states of positions.

    Attributes:
        site: where.
        view: the value, of a number of rows, as (batch, token, feature) or (batch, token, head, feature).
        replaced: the value with other states in this form.
        by_key: whether the token axis has the keys of the sequence, the cached ones included.
    """

    site: Site
    view: Callable[[object, int], Tensor]
    replaced: Callable[[object, Tensor], object]
    by_key: bool = False


def state_site(address: StateAddress, modules: Modules) -> StateSite:
    """Where the states of an address are in a forward."""
    layer, part = address.layer, modules.parts[min(address.layer, len(modules.parts) - 1)]
    tokens = StateSite(hidden_site(modules, layer), partial(token_states, axes=modules.axes), partial(_with_tokens, axes=modules.axes))
    match address.read:
        case "Hidden":
            return tokens
        case "Hidden(normed=False)":
            return replace(tokens, site=Site((_DECODER, layer - 1, _OUTPUT), modules.layers[-1], "output"))
        case "AttentionOutput":
            return replace(tokens, site=Site((_DECODER, layer, _ATTENTION_OUTPUT), str(part.attention), "output"))
        case "MLPOutput":
            return replace(tokens, site=Site((_DECODER, layer, _MLP_OUTPUT), str(part.mlp), "output"))
        case "HeadOutput":
            projection = Site((_DECODER, layer, _PROJECTION), str(part.projection), "input")
            return StateSite(projection, partial(_heads, heads=part.heads), _with_heads)
        case "Queries" | "Keys" | "Values":
            tensor = _CALL_TENSORS[address.read]
            return StateSite(
                attention_site(modules, layer), partial(_of_call, name=tensor), partial(_with_call, name=tensor), tensor != "query"
            )
    raise AssertionError(f"{address.read} has no states of positions")


def hidden_site(modules: Modules, state: int) -> Site:
    """Where a `hidden_states` index of the decoder is."""
    if state == 0:
        return Site((_DECODER, 0, _INPUT), modules.layers[0], "input")
    if state == len(modules.layers):
        return Site((_DECODER, state - 1, _AFTER if modules.last != modules.layers[-1] else _OUTPUT), modules.last, "output")
    return Site((_DECODER, state - 1, _OUTPUT), modules.layers[state - 1], "output")


def tower_site(modules: Modules, state: int) -> Site:
    """Where a `hidden_states` index of the vision tower is."""
    if state == 0:
        return Site((_TOWER, 0, _INPUT), modules.vision_blocks[0], "input")
    return Site((_TOWER, state - 1, _OUTPUT), modules.vision_blocks[state - 1], "output")


def attention_site(modules: Modules, block: int) -> Site:
    """Where the attention call of a decoder block is; of a module that makes none, its output, which has the weights."""
    path = modules.attention[block]
    assert path is not None, "a block with attention was resolved"
    if block in modules.attention_without_interface:
        return Site((_DECODER, block, _ATTENTION_OUTPUT), path, "output")
    return Site((_DECODER, block, _ATTENTION), path, "attention")


def tower_input_site(modules: Modules, block: int) -> Site:
    """Where a block of the vision tower gets its states."""
    return Site((_TOWER, block, _INPUT), modules.vision_blocks[block], "input")


def tower_attention_site(modules: Modules, block: int) -> Site:
    """Where the attention call of a block of the vision tower is."""
    return Site((_TOWER, block, _ATTENTION), str(modules.vision_attention[block]), "attention")


def module_site(path: str, side: Literal["input", "output"]) -> Site:
    """Where any module is; when it is reached is not known beforehand."""
    return Site(UNKNOWN_ORDER, path, side)


def by_site(steps: Iterable[Step]) -> list[tuple[Site, list[Step]]]:
    """The steps of each site, sites in the order in which the forward reaches them; the steps of a site in the order given."""
    ordered = sorted(steps, key=lambda step: (step.site.order, step.site.module, step.site.part))
    return [(site, list(group)) for site, group in groupby(ordered, key=lambda step: step.site)]


def token_states(value: object, rows: int, axes: Sequence[str]) -> Tensor:
    """A module's input or output as (batch, token, feature), residual streams concatenated.

    Args:
        rows: the batch's, for modules that flatten (batch, token).
    """
    states = first_tensor(value)
    if states.ndim == 2:
        return states.unflatten(0, (rows, -1))
    if states.ndim == 3 or "stream" not in axes:
        return states
    return states.permute([axes.index(axis) for axis in ("batch", "token", "stream", "feature")]).flatten(2)


def _with_tokens(value: object, states: Tensor, axes: Sequence[str]) -> object:
    before = first_tensor(value)
    if before.ndim == 2:
        return with_first_tensor(value, states.flatten(0, 1))
    if before.ndim == 3 or "stream" not in axes:
        return with_first_tensor(value, states)
    order = ("batch", "token", "stream", "feature")
    apart = states.unflatten(2, (before.shape[axes.index("stream")], -1))
    return with_first_tensor(value, apart.permute([order.index(axis) for axis in axes]))


def _heads(value: object, rows: int, heads: int) -> Tensor:
    states = first_tensor(value)
    return (
        states.reshape(rows, -1, heads, states.numel() // states.shape[0] // heads)
        if states.ndim == 2
        else states.flatten(2).unflatten(2, (heads, -1))
    )


def _with_heads(value: object, states: Tensor) -> object:
    return with_first_tensor(value, states.reshape(first_tensor(value).shape))


def _of_call(value: object, _rows: int, name: _CallTensor) -> Tensor:
    call = cast(RunningAttention, value).interface_call
    return {"query": call.query, "key": call.key, "value": call.value}[name].transpose(1, 2)


def _with_call(value: object, states: Tensor, name: _CallTensor) -> object:
    running = cast(RunningAttention, value)
    tensors: dict[str, Tensor] = {name: states.transpose(1, 2)}
    running.call = replace(running.interface_call, **tensors)  # type: ignore[arg-type]
    return running
