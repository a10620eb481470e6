"""Layers and heads as reads name them, checked against those that a model has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from probe.errors import InvalidLayer, InvalidRead, NoAttention
from probe.tracing.reads import Layers, as_layers

if TYPE_CHECKING:
    from probe.tracing.modules import Modules
    from probe.tracing.sites import StateAddress


def resolve_layers(layers: Layers, count: int, what: str, first: str) -> tuple[int, ...]:
    """Layer numbers counted from 0, in the order named, each once.

    Raises:
        InvalidLayer: out of range; the range is named.
    """
    named = as_layers(layers, what)
    numbers = tuple(range(count)) if named == "all" else named
    for number in numbers:
        if not -count <= number < count:
            raise InvalidLayer(f"Layer {number} was asked for, to read {what}, but this model has layers {first} to {count - 1}.")
    return tuple(dict.fromkeys(number % count for number in numbers))


def check_heads(heads: tuple[int, ...] | Literal["all", "mean"], count: int, of: str) -> tuple[int, ...] | Literal["all", "mean"]:
    """The heads themselves.

    Args:
        count: how many there are; 0: not known.

    Raises:
        InvalidRead: a head that is not there.
    """
    if count and not isinstance(heads, str) and max(heads) >= count:
        raise InvalidRead(f"Head {max(heads)} was asked for, in {of}, which has heads 0 to {count - 1}.")
    return heads


def head_count(address: StateAddress, modules: Modules) -> int:
    """How many heads the states of an address have; 0: not known."""
    return modules.key_value_heads if address.read in ("Keys", "Values") else modules.parts[address.layer].heads


def blocks_with(layers: Layers, paths: Sequence[str | None], name: str) -> tuple[int, ...]:
    """Decoder blocks that have a part; "all" means all that have it.

    Args:
        paths: for each block the path of the part; None: it has none.
        name: of the read, for messages.

    Raises:
        InvalidLayer, NoAttention: the blocks that have it are named.
    """
    known = tuple(block for block, path in enumerate(paths) if path is not None)
    if layers == "all":
        return known
    numbers = resolve_layers(layers, len(paths), name, "0")
    for number in numbers:
        if number not in known:
            error = InvalidLayer if name == "MLPOutput" else NoAttention
            raise error(f"Block {number} has no {name} that can be read. Blocks that have one: {', '.join(map(str, known)) or 'none'}.")
    return numbers


def attention_layers(layers: Layers, modules: Modules) -> tuple[int, ...]:
    """Decoder blocks with attention; "all" means all that have it.

    Raises:
        InvalidLayer, NoAttention: the blocks that have attention are named.
    """
    with_attention = tuple(block for block, path in enumerate(modules.attention) if path is not None)
    if layers == "all":
        return with_attention
    numbers = resolve_layers(layers, len(modules.attention), "attention", "0")
    for number in numbers:
        if number not in with_attention:
            raise NoAttention(
                f"Block {number} has no attention that can be read. Blocks with attention: {', '.join(map(str, with_attention)) or 'none'}."
            )
    return numbers


def layers_with_own_keys(layers: Layers, modules: Modules, what: str) -> tuple[int, ...]:
    """Decoder blocks whose attention is over the sequence alone; "all" means all of these.

    Args:
        what: for messages.

    Raises:
        InvalidLayer, NoAttention: the blocks that are such are named.
    """
    own = tuple(block for block in attention_layers("all", modules) if block not in modules.other_keys)
    numbers = own if layers == "all" else attention_layers(layers, modules)
    for number in numbers or (0,):
        if number not in own:
            raise NoAttention(
                f"{what} of block {number}: it attends to keys that are not the sequence's positions, such as those of an encoder or of vision "
                f"features. Blocks whose attention is over the sequence alone: {', '.join(map(str, own)) or 'none'}."
            )
    return numbers
