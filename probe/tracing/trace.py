"""Trace: what one run read, asked for by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probe.errors import NotRead
from probe.tokens.integers import as_int, as_ints
from probe.tokens.layout import ImageLayout
from probe.tokens.spans import TokenMap, shortened
from probe.tracing.activation import Activation
from probe.tracing.engine import Captured
from probe.tracing.held import Held, Wanted, attention_places, described, place_name, place_names
from probe.tracing.reads import Position, Positions, places
from probe.tracing.resolving import ReadPlan, RowIndices
from probe.tracing.selecting import listed


@dataclass(frozen=True)
class VisionLayout:
    """How the tower's states are laid out.

    Attributes:
        depth: how many `hidden_states` the tower has.
        patches: tokens of one picture that are patches; the class and register tokens beside them are left out. None: all are kept.
        layout: where the patches lie, if the tower looks at one picture.
        reason: why there is no layout.
        classes: "first" or "last": where the class tokens stand.
    """

    depth: int
    patches: int | None
    layout: ImageLayout | None
    reason: str
    classes: str = "first"

    def of_patches(self, states: Tensor) -> Tensor:
        """The states (..., token, feature) of the patches alone."""
        if self.patches is None:
            return states
        first = 0 if self.classes == "last" else states.shape[-2] - self.patches
        return states.narrow(-2, first, self.patches)


@dataclass(frozen=True, eq=False)
class Trace:
    """The activations of one forward. Holds no model and can be pickled.

    What was read is there by any name of its positions: a read at every position answers for each place, one of the answer for its words.
    Where the rows of a batch have spans of different lengths, a list with one Activation a row is returned instead of one Activation.

    Attributes:
        tokens: the TokenMap of each row of the batch.
        row_differences: attention block -> largest difference of rows @ values from the call's own output, where it was compared.
        vision_place: how the vision tower's states are laid out.
    """

    tokens: tuple[TokenMap, ...]
    row_differences: Mapping[int, float]
    _recorded: Captured
    _plan: ReadPlan
    _depth: tuple[int, int]
    vision_place: VisionLayout

    def __repr__(self) -> str:
        found = self._recorded
        hidden = {number for number, _ in found.hidden}
        blocks = {number for number, _ in found.attention}
        parts = [
            f"hidden states of layers {listed(sorted(hidden))} at {place_names(place for _, place in found.hidden)}" if hidden else "",
            f"attention of blocks {listed(sorted(blocks))} from {described(attention_places(found))}" if blocks else "",
            f"vision states of layers {listed(sorted(found.vision))}" if found.vision else "",
            f"logits at {place_names(found.logits)}" if found.logits else "",
        ]
        read = "; ".join(shortened(part, 120) for part in parts if part)
        return f"Trace({read or 'nothing read'}; {len(self.tokens)} x {', '.join(str(len(row)) for row in self.tokens[:4])} tokens)"

    def hidden(self, at: Positions = None, layer: int | None = None, *, layers: Iterable[int] | None = None) -> Any:
        """Hidden states.

        Equals `hidden_states[layer][:, at]` of a Hugging Face forward with the same attention kernel.

        Args:
            at: the places; left out, those of the only read of hidden states, or every position where that was read.
            layer: one layer; its axis is dropped. Negative numbers count from the end.
            layers: several; with neither, all that `Hidden` reads asked for at these places, or, where none names them, at their positions.

        Returns:
            Activation in the model's dtype, dims (layer, batch, token, feature).

        Raises:
            NotRead: the message lists what was read.
        """
        wanted: Wanted = places(at, "hidden(at=...)") or _only(self._plan.asked, "hidden states")
        numbers = self._layers(wanted, layer, layers)
        found = [self._held.hidden(number, wanted) for number in numbers]
        widths = sorted({states[0].shape[-1] for states in found})
        if len(widths) > 1:
            raise NotRead(
                f"Layers {', '.join(map(str, numbers))} have states of {' and '.join(map(str, widths))} features: residual streams are side "
                "by side until the last layer, which has one. Ask for one layer with layer=, or leave the last out with layers=."
            )
        rows = [_stacked([states[row] for states in found]) for row in range(len(self.tokens))]
        positions = self._held.positions(wanted)
        return self._activation(rows, ("layer", "batch", "token", "feature"), numbers, layer is not None, token=positions)

    def projected(self) -> Any:
        """Projected image tokens, as the language model receives them: dims (batch, token, feature).

        Equals `get_image_features(...).pooler_output`, concatenated over the images of a row.
        """
        return self.hidden("image", layer=0)

    def attention(
        self,
        layer: int | None = None,
        *,
        layers: Iterable[int] | None = None,
        query: Positions = None,
        key: Positions = None,
        heads: str | None = None,
    ) -> Any:
        """Attention from the query tokens to the key tokens.

        Equals `attentions[layer][:, :, query][..., key]` of a Hugging Face forward with eager attention, computed from the queries and
        keys that the running kernel really used.

        Args:
            layer: decoder block, counted from 0; its axis is dropped.
            layers: several; with neither, all blocks read.
            query, key, heads: which read is meant, where there were several.

        Returns:
            float32, dims (layer, batch, head, query, key), without `head` where heads were averaged. A row sums to 1 over all keys.

        Raises:
            NotRead: the message lists the blocks that were read.
        """
        held, asked_query, asked_key = self._held, places(query, "query"), places(key, "key")
        block = None if layer is None else as_int(layer)
        sources = held.attention_sources(asked_query, asked_key, heads, None if block is None else block % self._depth[1])
        numbers = _chosen(sorted(sources), layer, layers, self._depth[1], "attention of block")
        widths = {self._recorded.attention[number, sources[number]][0].shape[-1] for number in numbers}
        if len(widths) > 1:
            raise NotRead(
                f"Blocks {', '.join(map(str, numbers))} attend to different keys ({', '.join(map(str, sorted(widths)))} of them): "
                "some to the sequence, some across it to vision features. Ask for one with layer=, or for blocks of one kind with layers=."
            )
        place = sources[numbers[0]]
        queries = self._plan.queries[place] if asked_query is None else held.positions(asked_query)
        keys = self._plan.keys[place] if asked_key is None else held.positions(asked_key)
        found = [held.attention(number, sources[number], queries, keys) for number in numbers]
        rows = [_stacked([weights[row] for weights in found]) for row in range(len(self.tokens))]
        dims = ("layer", "batch", "head", "query", "key") if place.heads == "all" else ("layer", "batch", "query", "key")
        return self._activation(rows, dims, numbers, layer is not None, query=queries, key=keys)

    def vision(self, layer: int | None = None) -> Activation:
        """Vision tower states of the patches, class tokens left out: dims (layer, batch, token, feature).

        Equals `vision_tower(..., output_hidden_states=True).hidden_states[layer]` without its class token; the last is what the last block
        returns, where some towers have Hugging Face put their own output, behind a norm or a merger. `batch` counts pictures, or
        tiles where the model cuts a picture into tiles; a tower for pictures of any size has all their patches in one row.

        Args:
            layer: the tower's `hidden_states` index, negative from the end; may be left out if only one was read.
        """
        have = sorted(self._recorded.vision)
        place = self.vision_place
        numbers = _chosen(have, layer if layer is not None else have[0] if len(have) == 1 else None, None, place.depth, "vision state")
        data = _stacked([self._recorded.vision[number] for number in numbers])
        if data.ndim == 3:
            data = data[:, None]  # a tower for pictures of any size takes the patches of all pictures as one sequence
        if data.ndim == 5:
            data = data.flatten(2, 3)  # a tower of windows keeps its patches as (row, col)
        data = place.of_patches(data)
        dims: tuple[str, ...] = ("layer", "batch", "token", "feature")
        if len(numbers) == 1:
            data, dims = data[0], dims[1:]
        return Activation(data, dims, {"layer": numbers} if len(numbers) > 1 else {}, layout=place.layout, no_grid_reason=place.reason)

    def logits(self, at: Positions = None) -> Any:
        """Next-token logits: dims (batch, token, feature), feature being the vocabulary. Equals `logits[:, at]` of Hugging Face."""
        wanted: Wanted = places(at, "logits(at=...)") or _only(self._plan.asked_logits, "logits")
        rows = [logits[None] for logits in self._held.logits(wanted)]
        return self._activation(rows, ("layer", "batch", "token", "feature"), (0,), True, token=self._held.positions(wanted))

    @property
    def _held(self) -> Held:
        return Held(self.tokens, self._recorded, self._plan)

    def _layers(self, wanted: Wanted, layer: int | None, layers: Iterable[int] | None) -> tuple[int, ...]:
        """The layers meant: those named, which may be any that were captured, or else those that reads of hidden states asked for."""
        held = self._held
        have = {place: (held.asked_layers if layer is None and layers is None else held.layers)(place) for place in wanted}
        missing = [place for place in wanted if not have[place]]
        if missing:
            read = place_names(place for _, place in self._recorded.hidden)
            raise NotRead(f"Hidden states at {place_name(missing[0])} were not read. Read at: {read}.")
        return _chosen(sorted(set.intersection(*have.values())), layer, layers, self._depth[0], "hidden states of layer")

    def _activation(
        self, rows: list[Tensor], dims: tuple[str, ...], numbers: tuple[int, ...], single: bool, **axes: RowIndices
    ) -> Activation | list[Activation]:
        """One Activation of all rows where they agree in shape, one a row where they do not."""
        groups = [list(range(len(rows)))] if len({row.shape for row in rows}) == 1 else [[row] for row in range(len(rows))]
        made = []
        for group in groups:
            data = torch.stack([rows[row] for row in group], dim=1)
            lengths = dict(zip(dims, data.shape, strict=True))
            # Keys of cross-attention are no positions of the sequence, and have no coordinates.
            coords = {
                "layer": numbers,
                **{
                    axis: positions[group[0]]
                    for axis, positions in axes.items()
                    if len({positions[row] for row in group}) == 1 and len(positions[group[0]]) == lengths[axis]
                },
            }
            folded = axes["key" if "key" in axes else "token"]
            layouts = [self.tokens[row].layout(folded[row]) for row in group]
            layout, reason = (
                layouts[0] if all(known == layouts[0] for known in layouts) else (None, "the rows of the batch are laid out differently")
            )
            activation = Activation(data, dims, coords, layout=layout, no_grid_reason=reason)
            made.append(activation.sel(layer=numbers[0]) if single else activation)
        return made[0] if len(groups) == 1 else made


def _chosen(have: Sequence[int], layer: int | None, layers: Iterable[int] | None, depth: int, what: str) -> tuple[int, ...]:
    if layer is None and layers is None:
        if not have:
            raise NotRead(f"No {what.split()[0]} was read. Name it in the reads of the run.")
        return tuple(have)
    single = as_int(layer)
    asked = as_ints(layers) if layer is None else (single,) if single is not None else None
    if not asked:
        raise NotRead(f"The {what} {layer if layer is not None else layers!r} was asked for: layer= takes a number, layers= several.")
    numbers = tuple(number % depth if -depth <= number < 0 else number for number in asked)
    missing = [number for number in numbers if number not in have]
    if missing:
        raise NotRead(f"The {what} {missing[0]} was not read. Read: {', '.join(map(str, have)) or 'none'}.")
    return numbers


def _stacked(layers: Sequence[Tensor]) -> Tensor:
    """Layers stacked on the device of the first: a model may lie on several."""
    return torch.stack([layer.to(layers[0].device) for layer in layers])


def _only(asked: Sequence[tuple[Position | None, ...]], what: str) -> tuple[Position | None, ...]:
    """The places meant when none is named: those of the only read, or every position where that was read."""
    if (None,) in asked:
        return (None,)
    if len(asked) != 1:
        raise NotRead(f"Name a place: {what} were read at {place_names(place for places in asked for place in places)}.")
    return asked[0]
