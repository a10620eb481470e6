"""Trace: what one run read, asked for by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probe.activation import Activation
from probe.engine import Recorded
from probe.errors import NotRead
from probe.layout import ImageLayout
from probe.plan import AttentionPlace, Plan
from probe.reads import Place, Places, places
from probe.spans import Span, TokenMap


@dataclass(frozen=True)
class VisionPlace:
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


@dataclass(frozen=True)
class Trace:
    """The activations of one forward.

    Where the rows of a batch have spans of different lengths, a list with one Activation a row is returned instead of one Activation.

    Attributes:
        tokens: the TokenMap of each row of the batch.
        row_differences: attention block -> largest difference of rows @ values from the call's own output, where it was compared.
        vision_place: how the vision tower's states are laid out.
    """

    tokens: tuple[TokenMap, ...]
    row_differences: Mapping[int, float]
    _recorded: Recorded
    _plan: Plan
    _depth: tuple[int, int]
    vision_place: VisionPlace

    def hidden(self, at: Places = None, layer: int | None = None, *, layers: Iterable[int] | None = None) -> Any:
        """Hidden states.

        Equals `hidden_states[layer][:, at]` of a Hugging Face forward with the same attention kernel.

        Args:
            at: the places; left out, those of the only read of hidden states, or every position where that was read.
            layer: one layer; its axis is dropped. Negative numbers count from the end.
            layers: several; with neither, all layers read at these places.

        Returns:
            Activation in the model's dtype, dims (layer, batch, token, feature).

        Raises:
            NotRead: the message lists what was read.
        """
        wanted: Sequence[Place | None] = places(at, "hidden(at=...)") or _only(self._plan.asked, "hidden states")
        numbers = self._layers(wanted, layer, layers)
        widths = sorted({self._recorded.hidden[number, place][0].shape[-1] for number in numbers for place in wanted})
        if len(widths) > 1:
            raise NotRead(
                f"Layers {', '.join(map(str, numbers))} have states of {' and '.join(map(str, widths))} features: residual streams are side "
                "by side until the last layer, which has one. Ask for one layer with layer=, or leave the last out with layers=."
            )
        rows = [
            _stacked([torch.cat([self._recorded.hidden[number, place][row] for place in wanted]) for number in numbers])
            for row in range(len(self.tokens))
        ]
        positions = [tuple(p for place in wanted for p in self._plan.positions[place][row]) for row in range(len(self.tokens))]
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
        query: Places = None,
        key: Places = None,
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
        known = list(dict.fromkeys(place for _, place in self._recorded.attention))
        fits = [
            place
            for place in known
            if (query is None or place.query == places(query, "query"))
            and (key is None or place.key == places(key, "key"))
            and (heads is None or place.heads == heads)
            and (layer is None or (layer % self._depth[1], place) in self._recorded.attention)
        ]
        if not fits:
            raise NotRead(f"No attention was read from {query!r} to {key!r}. Attention reads: {_described(known)}.")
        if len(fits) > 1:
            raise NotRead(f"Several attention reads fit; name one by query=, key= or heads=. Attention reads: {_described(fits)}.")
        place = fits[0]
        have = sorted(number for number, other in self._recorded.attention if other == place)
        numbers = _chosen(have, layer, layers, self._depth[1], "attention of block")
        widths = {self._recorded.attention[number, place][0].shape[-1] for number in numbers}
        if len(widths) > 1:
            raise NotRead(
                f"Blocks {', '.join(map(str, numbers))} attend to different keys ({', '.join(map(str, sorted(widths)))} of them): "
                "some to the sequence, some across it to vision features. Ask for one with layer=, or for blocks of one kind with layers=."
            )
        rows = [_stacked([self._recorded.attention[number, place][row] for number in numbers]) for row in range(len(self.tokens))]
        dims = ("layer", "batch", "head", "query", "key") if place.heads == "all" else ("layer", "batch", "query", "key")
        return self._activation(
            rows, dims, numbers, layer is not None, query=list(self._plan.queries[place]), key=list(self._plan.keys[place])
        )

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
        return Activation(data, dims, {"layer": numbers} if len(numbers) > 1 else {}, layout=place.layout, unfoldable=place.reason)

    def logits(self, at: Places = None) -> Any:
        """Next-token logits: dims (batch, token, feature), feature being the vocabulary. Equals `logits[:, at]` of Hugging Face."""
        wanted: Sequence[Place | None] = places(at, "logits(at=...)") or _only(self._plan.asked_logits, "logits")
        missing = [place for place in wanted if place not in self._recorded.logits]
        if missing:
            raise NotRead(f"Logits at {missing[0]!r} were not read. Read at: {', '.join(map(_name, self._recorded.logits)) or 'nowhere'}.")
        rows = [torch.cat([self._recorded.logits[place][row] for place in wanted])[None] for row in range(len(self.tokens))]
        positions = [tuple(p for place in wanted for p in self._plan.positions[place][row]) for row in range(len(self.tokens))]
        return self._activation(rows, ("layer", "batch", "token", "feature"), (0,), True, token=positions)

    def _layers(self, wanted: Sequence[Place | None], layer: int | None, layers: Iterable[int] | None) -> tuple[int, ...]:
        """The layers meant: those named, which may be any that were recorded, or else those that reads of hidden states asked for."""
        have = {place: {number for number, other in self._recorded.hidden if other == place} for place in wanted}
        missing = [place for place in wanted if not have[place]]
        if missing:
            names = ", ".join(dict.fromkeys(_name(place) for _, place in self._recorded.hidden))
            raise NotRead(f"Hidden states at {_name(missing[0])} were not read. Read at: {names or 'nowhere'}.")
        if layer is None and layers is None:
            have = {place: self._plan.asked_layers.get(place, have[place]) for place in wanted}
        return _chosen(sorted(set.intersection(*have.values())), layer, layers, self._depth[0], "hidden states of layer")

    def _activation(
        self, rows: list[Tensor], dims: tuple[str, ...], numbers: tuple[int, ...], single: bool, **axes: list[tuple[int, ...]]
    ) -> Activation | list[Activation]:
        """One Activation of all rows where they agree in shape, one a row where they do not."""
        groups = [list(range(len(rows)))] if len({row.shape for row in rows}) == 1 else [[row] for row in range(len(rows))]
        made = []
        for group in groups:
            data = torch.stack([rows[row] for row in group], dim=1)
            coords = {
                "layer": numbers,
                **{axis: positions[group[0]] for axis, positions in axes.items() if len({positions[r] for r in group}) == 1},
            }
            folded = axes.get("key", axes.get("token", []))
            layouts = [self.tokens[row].layout(folded[row]) for row in group]
            layout, reason = (
                layouts[0] if all(known == layouts[0] for known in layouts) else (None, "the rows of the batch are laid out differently")
            )
            activation = Activation(data, dims, coords, layout=layout, unfoldable=reason)
            made.append(activation.sel(layer=numbers[0]) if single else activation)
        return made[0] if len(groups) == 1 else made


def _chosen(have: Sequence[int], layer: int | None, layers: Iterable[int] | None, depth: int, what: str) -> tuple[int, ...]:
    if layer is None and layers is None:
        if not have:
            raise NotRead(f"No {what.split()[0]} was read. Name it in the reads of the run.")
        return tuple(have)
    numbers = tuple(number % depth if -depth <= number < 0 else number for number in ([layer] if layer is not None else layers or ()))
    missing = [number for number in numbers if number not in have]
    if missing:
        raise NotRead(f"The {what} {missing[0]} was not read. Read: {', '.join(map(str, have)) or 'none'}.")
    return numbers


def _stacked(layers: Sequence[Tensor]) -> Tensor:
    """Layers stacked on the device of the first: a model may lie on several."""
    return torch.stack([layer.to(layers[0].device) for layer in layers])


def _only(asked: Sequence[tuple[Place | None, ...]], what: str) -> tuple[Place | None, ...]:
    """The places meant when none is named: those of the only read, or every position where that was read."""
    if (None,) in asked:
        return (None,)
    if len(asked) != 1:
        listed = ", ".join(dict.fromkeys(_name(place) for places in asked for place in places))
        raise NotRead(f"Name a place: {what} were read at {listed or 'none'}.")
    return asked[0]


def _name(place: Place | None) -> str:
    if isinstance(place, Span):
        return repr(place.name or place.positions)
    return "every position" if place is None else repr(place)


def _described(known: Sequence[AttentionPlace]) -> str:
    def side(value: tuple[Place, ...] | None) -> str:
        return "all" if value is None else " + ".join(map(_name, value))

    return "; ".join(f"{side(p.query)} to {side(p.key)} (heads={p.heads})" for p in known) or "none"
