"""`trace[read]`: what a trace captured, as an activation of exactly that read or of any part of what was read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probe.errors import NotRead
from probe.tracing.activation import Activation
from probe.tracing.activation.batch import activation_of_rows
from probe.tracing.capturing.lookup import CapturedByPosition, attention_selections, described, not_read, nothing_read
from probe.tracing.capturing.vision_layout import VisionLayout
from probe.tracing.reads import (
    Attention,
    HeadRead,
    Heads,
    Hidden,
    Logits,
    Module,
    Position,
    Projected,
    Read,
    StateRead,
    Vision,
    VisionAttention,
    as_heads,
    as_layers,
    as_positions,
    position_names,
)
from probe.tracing.resolving import AttentionSelection, RowIndices
from probe.tracing.sites import BEFORE_NORM, StateAddress


@dataclass(frozen=True)
class Items:
    """The activations of one forward, by read.

    Attributes:
        lookup: what was captured.
        depth: how many decoder blocks the model has.
        vision: how the tower's states are laid out.
        last_is_normed: whether the last hidden state is after the final norm.
    """

    lookup: CapturedByPosition
    depth: int
    vision: VisionLayout
    last_is_normed: bool

    def get(self, read: Read) -> Activation:
        """The activation of a read.

        Raises:
            NotRead: something of it was not read; the message says what was.
        """
        match read:
            case StateRead():
                return self._states(read)
            case Projected():
                return self._states(Hidden(0, at="image")).isel(layer=0)
            case Attention():
                return self._attention(read)
            case Vision():
                return self._vision(read)
            case VisionAttention():
                return self._vision_attention(read)
            case Module():
                return self._module(read)
            case Logits():
                requested = as_positions(read.at, "at") or (None,)
                return activation_of_rows(
                    self.lookup.logits(requested),
                    ("batch", "token", "feature"),
                    self.lookup.tokens,
                    {"token": self.lookup.indices(requested)},
                )
        raise NotRead(f"trace[...] takes a read, such as trace[probe.Hidden(7, at='image')]; got {read!r}.")

    def _states(self, read: StateRead) -> Activation:
        requested: Sequence[Position | None] = as_positions(read.at, "at") or (None,)
        name = type(read).__name__
        addresses = [self._address(read, layer) for layer in self._layers(read, requested)]
        for address in addresses:
            for position in requested:
                if address.layer not in self.lookup.layers(address.read, position):
                    raise NotRead(self._missing(address, position))
        states = [self.lookup.states(address, requested) for address in addresses]
        coords: dict[str, tuple[int, ...]] = {"layer": tuple(address.layer for address in addresses)}
        dims: tuple[str, ...] = ("batch", "token", "feature")
        if isinstance(read, HeadRead):
            dims = ("batch", "head", "token", "feature")
            picked = [
                self._with_heads(rows, self.lookup.plan.heads.get(address), read.heads, name)
                for address, rows in zip(addresses, states, strict=True)
            ]
            states = [rows for rows, _ in picked]
            coords["head"] = picked[0][1]
        normed = (
            normed_layers(coords["layer"], self.depth, last_is_normed=self.last_is_normed and read.normed)
            if isinstance(read, Hidden)
            else None
        )
        return self._of_layers(states, dims, coords, {"token": self.lookup.indices(requested)}, normed)

    def _layers(self, read: StateRead, requested: Sequence[Position | None]) -> tuple[int, ...]:
        """The layers that a read names; for "all" those of its kind at these positions."""
        depth = self.depth + 1 if isinstance(read, Hidden) else self.depth
        named = as_layers(read.layers, type(read).__name__)
        if named != "all":
            return tuple(layer % depth if -depth <= layer < 0 else layer for layer in named)
        if isinstance(read, Hidden):
            return tuple(range(depth))
        name = type(read).__name__
        found = sorted(set.intersection(*(self.lookup.layers(name, position) for position in requested)))
        if not found:
            raise NotRead(self._missing(StateAddress(name, 0), requested[0]))
        return tuple(found)

    def _address(self, read: StateRead, layer: int) -> StateAddress:
        before_norm = isinstance(read, Hidden) and not read.normed and layer == self.depth
        return StateAddress(BEFORE_NORM if before_norm else type(read).__name__, layer)

    def _missing(self, address: StateAddress, position: Position | None) -> str:
        known = [(other.layer, at) for other, at in self.lookup.captured.states if other.read == address.read]
        if not known:
            return nothing_read("hidden states" if address.read == "Hidden" else f"{address.read} states")
        at_layer = [at for layer, at in known if layer == address.layer]
        if at_layer:
            return not_read(f"{address.read} of layer {address.layer}", position, at_layer)
        layers = ", ".join(map(str, sorted({layer for layer, _ in known})))
        return f"{address.read} of layer {address.layer} was not read. Layers read: {layers}, at {position_names(at for _, at in known)}."

    def _with_heads(
        self, rows: Sequence[Tensor], kept: tuple[int, ...] | None, heads: Heads, name: str
    ) -> tuple[list[Tensor], tuple[int, ...]]:
        """The rows (head, ...) of the heads that a read names, and their numbers.

        Args:
            kept: the heads that were captured; None: all.
        """
        known = kept if kept is not None else tuple(range(rows[0].shape[0]))
        named = as_heads(heads, name)
        if isinstance(named, str):
            if kept is not None:
                raise NotRead(f"All heads of {name} were asked for; heads {', '.join(map(str, known))} were read.")
            return list(rows), known
        missing = [head for head in named if head not in known]
        if missing:
            raise NotRead(f"Head {missing[0]} of {name} was not read. Heads read: {', '.join(map(str, known))}.")
        numbers = [known.index(head) for head in named]
        return [row[numbers] for row in rows], named

    def _attention(self, read: Attention) -> Activation:
        captured, known = self.lookup.captured.attention, attention_selections(self.lookup.captured)
        if not known:
            raise NotRead(nothing_read("attention rows"))
        query, key = as_positions(read.query, "query"), as_positions(read.key, "key")
        heads = as_heads(read.heads, "Attention", mean=True)
        fitting = [
            one
            for one in known
            if self.lookup.includes(one, query, key) and _offers(one, heads) and (query or not one.query) and (key or not one.key)
        ]
        named = as_layers(read.layers, "Attention")
        blocks = (
            tuple(sorted({block for block, one in captured if one in fitting}))
            if named == "all"
            else tuple(block % self.depth if -self.depth <= block < 0 else block for block in named)
        )
        queries, keys = self.lookup.indices(query or (None,)), self.lookup.indices(key or (None,))
        rows: list[list[Tensor]] = []
        numbers: tuple[int, ...] = ()
        for block in blocks:
            source = next((one for one in fitting if (block, one) in captured), None)
            if source is None:
                raise NotRead(f"{read!r} was not read. Attention reads: {described(known)}.")
            wanted = self.lookup.plan.keys[source] if key is None and source.key is None else keys
            weights, numbers = self._attention_heads(self.lookup.attention(block, source, queries, wanted), source, heads)
            rows.append(weights)
        if not rows:
            raise NotRead(f"{read!r} was not read. Attention reads: {described(known)}.")
        dims: tuple[str, ...] = ("batch", "query", "key") if heads == "mean" else ("batch", "head", "query", "key")
        coords = {"layer": blocks} if heads == "mean" else {"layer": blocks, "head": numbers}
        return self._of_layers(rows, dims, coords, {"query": queries, "key": keys})

    def _attention_heads(self, rows: Sequence[Tensor], source: AttentionSelection, heads: Heads) -> tuple[list[Tensor], tuple[int, ...]]:
        if source.heads == "mean":
            return list(rows), ()
        if heads == "mean":
            return [row.mean(0) for row in rows], ()
        return self._with_heads(rows, None if source.heads == "all" else source.heads, heads, "Attention")

    def _vision(self, read: Vision) -> Activation:
        captured = self.lookup.captured.vision
        layers = self._tower_layers(read.layers, self.vision.depth, captured, "vision states")
        data = stack_layers([captured[layer] for layer in layers])
        if data.ndim == 3:
            data = data[:, None]  # a tower for images of any size takes the patches of all images as one sequence
        if data.ndim == 5:
            data = data.flatten(2, 3)  # a tower of windows keeps its patches as (row, col)
        dims = ("layer", "batch", "token", "feature")
        vision = self.vision
        return Activation(vision.of_patches(data), dims, {"layer": layers}, layout=vision.layout, no_grid_reason=vision.reason)

    def _vision_attention(self, read: VisionAttention) -> Activation:
        selection = AttentionSelection(
            as_positions(read.query, "query"), as_positions(read.key, "key"), as_heads(read.heads, "VisionAttention", mean=True)
        )
        captured = {block: rows for (block, one), rows in self.lookup.captured.vision_attention.items() if one == selection}
        layers = self._tower_layers(read.layers, self.vision.depth - 1, captured, "attention rows of the vision tower like these")
        dims = ("layer", "batch", "query", "key") if selection.heads == "mean" else ("layer", "batch", "head", "query", "key")
        coords = {"layer": layers} | ({} if isinstance(selection.heads, str) else {"head": selection.heads})
        return Activation(stack_layers([captured[layer] for layer in layers]), dims, coords)

    def _tower_layers(self, layers: object, depth: int, captured: Mapping[int, Tensor], what: str) -> tuple[int, ...]:
        if not captured:
            raise NotRead(nothing_read(what))
        named = as_layers(layers, what)  # type: ignore[arg-type]
        numbers = tuple(sorted(captured)) if named == "all" else tuple(layer % depth if -depth <= layer < 0 else layer for layer in named)
        missing = [layer for layer in numbers if layer not in captured]
        if missing:
            raise NotRead(f"No {what} of layer {missing[0]} were read. Layers read: {', '.join(map(str, sorted(captured)))}.")
        return numbers

    def _module(self, read: Module) -> Activation:
        captured = self.lookup.captured.modules
        if read not in captured:
            known = ", ".join(map(repr, captured))
            raise NotRead(f"{read!r} was not read. Modules read: {known}." if known else nothing_read("modules"))
        rows = captured[read]
        if read.at is None:
            (data,) = rows
            dims = _MODULE_DIMS.get(data.ndim)
            if dims is None:
                raise NotRead(f"The {read.side} of {read.path} has {data.ndim} axes. Take the tensor itself from trace.captured.modules.")
            return Activation(data, dims, no_grid_reason="a module's tensor is kept as it is")
        indices = self.lookup.indices(as_positions(read.at, "at") or ())
        return activation_of_rows(rows, ("batch", "token", "feature"), self.lookup.tokens, {"token": indices})

    def _of_layers(
        self,
        states: Sequence[Sequence[Tensor]],
        dims: tuple[str, ...],
        coords: Mapping[str, tuple[int, ...]],
        indices: Mapping[str, RowIndices],
        normed: tuple[bool, ...] | None = None,
    ) -> Activation:
        shapes = sorted({tuple(rows[0].shape) for rows in states})
        if len(shapes) > 1:
            raise NotRead(f"Layers {', '.join(map(str, coords['layer']))} have different shapes: {shapes}. Ask for them one by one.")
        # A single layer is not copied here: the rows of the batch are.
        rows = [row[0][None] if len(row) == 1 else stack_layers(row) for row in zip(*states, strict=True)]
        return activation_of_rows(rows, ("layer", *dims), self.lookup.tokens, indices, coords, normed)


_MODULE_DIMS = {
    1: ("feature",),
    2: ("token", "feature"),
    3: ("batch", "token", "feature"),
    4: ("batch", "head", "token", "feature"),
}


def _offers(selection: AttentionSelection, heads: Heads) -> bool:
    """Whether a read of these heads can be answered from a captured one."""
    if selection.heads in ("all", heads):
        return True
    return not isinstance(selection.heads, str) and not isinstance(heads, (str, int)) and set(heads) <= set(selection.heads)


def normed_layers(layers: Sequence[int], depth: int, *, last_is_normed: bool) -> tuple[bool, ...]:
    """For each hidden state whether it is after the final norm.

    Args:
        depth: how many decoder blocks the model has.
        last_is_normed: whether the last one is.
    """
    return tuple(last_is_normed and layer == depth for layer in layers)


def stack_layers(layers: Sequence[Tensor]) -> Tensor:
    """Layers stacked on the device of the first: a model may be spread over several.

    Raises:
        NotRead: they differ in shape, as the stages of a hierarchical vision tower do.
    """
    shapes = {tuple(layer.shape) for layer in layers}
    if len(shapes) > 1:
        raise NotRead(f"These layers have states of different shapes, {', '.join(map(str, sorted(shapes)))}. Ask for them one by one.")
    return torch.stack([layer.to(layers[0].device) for layer in layers])
