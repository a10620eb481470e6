"""Trace: the activations that one run read, by the names of their positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from probe.errors import GridUnknown, NotRead
from probe.notebook import Html
from probe.tokens.equality import equal_fields
from probe.tokens.integers import as_int, as_ints
from probe.tokens.spans import TokenMap
from probe.tracing.activation import Activation
from probe.tracing.activation.batch import activation_of_rows
from probe.tracing.activation.indexing import listed
from probe.tracing.capturing.captured import Captured
from probe.tracing.capturing.lookup import CapturedByPosition, RequestedPositions, not_read, nothing_read
from probe.tracing.capturing.summary import summary, summary_table
from probe.tracing.capturing.vision_layout import VisionLayout
from probe.tracing.items import Items, normed_layers, stack_layers
from probe.tracing.reads import Heads, Hidden, Position, Positions, Read, Vision, as_heads, as_positions, position_name, position_names
from probe.tracing.resolving import AttentionSelection, ReadPlan, RowIndices
from probe.tracing.sites import BEFORE_NORM, StateAddress


@dataclass(frozen=True, eq=False)
class Trace:
    """The activations of one forward. It holds no model and no image, and can be pickled, copied and compared.

    `probe.views.page` and `probe.views.widget` show it over the image that was encoded.

    A trace answers for every position that its reads include: after a read of every position, `hidden("image")` and `hidden("word")`
    are parts of it. Where the rows of a batch have spans of different lengths, a `RaggedActivation` is returned, whose `rows()` are each
    row's own activation.

    Attributes:
        tokens: the TokenMap of each row of the batch.
        captured: the tensors as they were captured.
        plan: the resolved reads.
        depth: how many hidden states and how many blocks the decoder has.
        vision_layout: how the vision tower's states are laid out.
        last_is_normed: whether the last hidden state is after the final norm.

    >>> trace = model.run(model.encode(image, "Is there a cat?"), [probe.Hidden(layers=[3, 4], at="image"), probe.Logits(at=-1)])
    >>> trace.hidden("image", layer=4)
    Activation(batch=1, token=196, feature=128; float32)
    >>> trace.hidden("image").coords["layer"]
    (3, 4)
    """

    tokens: tuple[TokenMap, ...]
    captured: Captured
    plan: ReadPlan
    depth: tuple[int, int]
    vision_layout: VisionLayout
    last_is_normed: bool = True

    def __repr__(self) -> str:
        return f"Trace({summary(self.captured)}; {self._sizes()})"

    def _repr_html_(self) -> Html:
        return summary_table(self.captured, f"Trace, {self._sizes()}")

    def _sizes(self) -> str:
        return f"{len(self.tokens)} x {', '.join(str(len(row)) for row in self.tokens[:4])} tokens"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trace):
            return NotImplemented
        return equal_fields(self, other)

    __hash__ = None  # type: ignore[assignment]

    def __getitem__(self, read: Read) -> Activation:
        """Exactly a read, or any part of what was read: fewer layers, positions or heads, whatever reads were merged.

        Returns:
            the dims of the read, always with its `layer` axis: (layer, batch, token, feature) for states, with `head` before `token` for
            states of heads, (layer, batch, head, query, key) for attention.

        >>> trace = model.run(model.encode(image, "Is there a cat?"), probe.MLPOutput("all"))
        >>> trace[probe.MLPOutput(3, at="image")]
        Activation(layer=1, batch=1, token=196, feature=128; float32)

        Raises:
            NotRead: the message says what was read.
        """
        return Items(self._lookup, self.depth[1], self.vision_layout, self.last_is_normed).get(read)

    def hidden(self, at: Positions = None, layer: int | None = None, *, layers: Iterable[int] | None = None) -> Activation:
        """Hidden states.

        Equals `hidden_states[layer][:, at]` of a Hugging Face forward with the same attention kernel.

        Args:
            at: positions; left out, those of the only read of hidden states, or every position if that was read.
            layer: one layer; its axis is dropped. Negative numbers count from the end.
            layers: several; with neither, the layers of the `Hidden` reads that name these positions, or else of those that include them.

        Returns:
            in the model's dtype, dims (layer, batch, token, feature).

        >>> trace = model.run(model.encode(image, "Is there a cat?"), probe.Hidden(layers=[3, 4]))
        >>> trace.hidden("question", layer=4)
        Activation(batch=1, token=5, feature=128; float32)

        Raises:
            NotRead: the message lists what was read.
        """
        requested: RequestedPositions = as_positions(at, "hidden(at=...)") or _only_read(
            self.plan.hidden_reads,
            [at for address, at in self.captured.states if address.read in ("Hidden", BEFORE_NORM)],
            "hidden states",
        )
        numbers = self._layers_at(requested, layer, layers)
        states = [self._lookup.states(StateAddress("Hidden", number), requested) for number in numbers]
        widths = sorted({rows[0].shape[-1] for rows in states})
        if len(widths) > 1:
            raise NotRead(
                f"Layers {', '.join(map(str, numbers))} have states of {' and '.join(map(str, widths))} features: residual streams are "
                "concatenated until the last layer, which has one. Ask for one layer with layer=, or leave the last out with layers=."
            )
        tokens = self._lookup.indices(requested)
        normed = normed_layers(numbers, self.depth[1], last_is_normed=self.last_is_normed)
        return self._of_layers(
            states, ("batch", "token", "feature"), None if layer is not None else numbers, {"token": tokens}, normed=normed
        )

    def projected(self) -> Activation:
        """Projected image tokens, as the language model receives them: dims (batch, token, feature).

        Equals `get_image_features(...).pooler_output`, concatenated over the images of a row.

        >>> model.run(model.encode(image, "Is there a cat?"), probe.Projected()).projected()
        Activation(batch=1, token=196, feature=128; float32)
        """
        return self.hidden("image", layer=0)

    def attention(
        self,
        layer: int | None = None,
        *,
        layers: Iterable[int] | None = None,
        query: Positions = None,
        key: Positions = None,
        heads: Heads | None = None,
    ) -> Activation:
        """Attention from the query tokens to the key tokens.

        Equals `attentions[layer][:, :, query][..., key]` of a Hugging Face forward with eager attention, computed from the queries and
        keys that the running kernel really used.

        Args:
            layer: decoder block, counted from 0; its axis is dropped.
            layers: several; with neither, all blocks read.
            query, key, heads: which read is meant, where there were several.

        Returns:
            float32, dims (layer, batch, head, query, key), without `head` where heads were averaged. A row sums to 1 over all keys.

        >>> encoding = model.encode(image, "Is there a cat?")
        >>> trace = model.run(encoding, probe.Attention(layers="all", query=-1, key="image"))
        >>> trace.attention(layer=4)
        Activation(batch=1, head=2, query=1, key=196; float32)

        Raises:
            NotRead: the message lists the blocks that were read.
        """
        query_positions, key_positions = as_positions(query, "query"), as_positions(key, "key")
        blocks = _requested_layers(layer, layers, self.depth[1], "attention of block")
        kept = None if heads is None else as_heads(heads, "attention", mean=True)
        selections = self._lookup.attention_selections(query_positions, key_positions, kept, blocks)
        numbers = _selected_layers(sorted(selections), blocks, "attention of block")
        self._check_same_keys(selections, numbers)
        selection = selections[numbers[0]]
        queries = self.plan.queries[selection] if query_positions is None else self._lookup.indices(query_positions)
        keys = self.plan.keys[selection] if key_positions is None else self._lookup.indices(key_positions)
        weights = [self._lookup.attention(number, selections[number], queries, keys) for number in numbers]
        dims = ("batch", "query", "key") if selection.heads == "mean" else ("batch", "head", "query", "key")
        coords = {} if isinstance(selection.heads, str) else {"head": selection.heads}
        return self._of_layers(weights, dims, None if layer is not None else numbers, {"query": queries, "key": keys}, coords)

    def vision(self, layer: int | None = None, *, view: Literal["base"] | None = None) -> Activation:
        """Vision tower states of the patches, class tokens left out: dims (layer, batch, token, feature).

        Equals `vision_tower(..., output_hidden_states=True).hidden_states[layer]` without its class token. The last one is what the last
        block returns; for some towers Hugging Face replaces it by the tower's own output, after a norm or a merger. `batch` counts
        images, or tiles where the model cuts an image into tiles; a tower for images of any size has all their patches in one row.

        Args:
            layer: the tower's `hidden_states` index, negative from the end. None: all that were read; a single one has no `layer` axis.
            view: "base": of an image that is cut into tiles, the crop that shows it whole; `.grid()` folds it.

        >>> model.run(model.encode(image, "Is there a cat?"), probe.Vision(layers=-2)).vision()
        Activation(batch=1, token=196, feature=192; float32)

        Raises:
            NotRead: the message lists the layers that were read.
            GridUnknown: `view` is given, and no crop shows the whole image, or its patches lie nowhere.
        """
        read = sorted(self.captured.vision)
        if not read:
            raise NotRead(nothing_read("vision states"))
        depth = self.vision_layout.depth
        numbers = _selected_layers(read, _requested_layers(layer, None, depth, "vision state"), "vision state")
        activation = self[Vision(numbers)]
        if view is not None:
            activation = self._base_crop(activation)
        return activation.isel(layer=0) if len(numbers) == 1 else activation

    def _base_crop(self, crops: Activation) -> Activation:
        if self.vision_layout.base is None:
            raise GridUnknown(
                f"{crops!r} has no crop that shows one whole image with its patches on a known grid. Without tiles, vision() is laid out."
            )
        index, layout = self.vision_layout.base
        return replace(crops.isel(batch=[index]), layout=layout, no_grid_reason="")

    def logits(self, at: Positions = None) -> Activation:
        """Next-token logits: dims (batch, token, feature), feature being the vocabulary.

        Equals `logits[:, at]` of Hugging Face.

        Args:
            at: positions; left out, those of the only read of logits, or every position if that was read.

        >>> model.run(model.encode(image, "Is there a cat?"), probe.Logits(at=-1)).logits().shape["token"]
        1

        Raises:
            NotRead: the message lists the positions that were read.
        """
        requested: RequestedPositions = as_positions(at, "logits(at=...)") or _only_read(
            self.plan.logits_reads, self.captured.logits, "logits"
        )
        return self._of_layers(
            [self._lookup.logits(requested)], ("batch", "token", "feature"), None, {"token": self._lookup.indices(requested)}
        )

    @property
    def row_differences(self) -> Mapping[int, float]:
        """Attention block -> largest difference of rows @ values from the call's own output, where it was compared."""
        return self.captured.row_differences

    @property
    def _lookup(self) -> CapturedByPosition:
        return CapturedByPosition(self.tokens, self.captured, self.plan)

    def _layers_at(self, requested: RequestedPositions, layer: int | None, layers: Iterable[int] | None) -> tuple[int, ...]:
        """The named layers; without names, the layers that `Hidden` reads named for these positions."""
        lookup, unnamed = self._lookup, layer is None and layers is None
        layers_of = {at: lookup.requested_layers(at) if unnamed else lookup.layers("Hidden", at) for at in requested}
        for position in requested:
            self._refuse_before_norm(position, _requested_layers(layer, layers, self.depth[0], "hidden states of layer"))
            if not layers_of[position]:
                known = [other for address, other in self.captured.states if address.read == "Hidden"]
                raise NotRead(not_read("Hidden states", position, known))
        common = set.intersection(*layers_of.values())
        if not common:
            each = "; ".join(f"{position_name(position)} at {listed(sorted(numbers))}" for position, numbers in layers_of.items())
            raise NotRead(f"These positions were read at no common layer: {each}. Name positions of one read.")
        return _selected_layers(
            sorted(common), _requested_layers(layer, layers, self.depth[0], "hidden states of layer"), "hidden states of layer"
        )

    def _refuse_before_norm(self, position: Position | None, numbers: Sequence[int] | None) -> None:
        """Refuse the last hidden state at a position where it was read before the final norm alone.

        Args:
            numbers: the layers that are asked for; None: those that were read.
        """
        last, lookup = self.depth[1], self._lookup
        asked = position not in self.plan.layers_by_position if numbers is None else last in numbers
        if asked and last in lookup.layers(BEFORE_NORM, position) and last not in lookup.layers("Hidden", position):
            raise NotRead(
                f"Hidden state {last} was read before the final norm, where it is not Hugging Face's: take it as "
                f"trace[{Hidden(last, at=position, normed=False)!r}]."
            )

    def _check_same_keys(self, selections: Mapping[int, AttentionSelection], blocks: Sequence[int]) -> None:
        widths = {self.captured.attention[block, selections[block]][0].shape[-1] for block in blocks}
        if len(widths) > 1:
            raise NotRead(
                f"Blocks {', '.join(map(str, blocks))} attend to different keys ({', '.join(map(str, sorted(widths)))} of them): "
                "some to the sequence, some across it to vision features. Ask for one with layer=, or for blocks of one kind with layers=."
            )

    def _of_layers(
        self,
        states: Sequence[Sequence[Tensor]],
        dims: tuple[str, ...],
        layers: tuple[int, ...] | None,
        indices: Mapping[str, RowIndices],
        coords: Mapping[str, tuple[int, ...]] | None = None,
        normed: tuple[bool, ...] | None = None,
    ) -> Activation:
        """The rows of each layer as one activation; without layers, those of the only one, without a `layer` axis."""
        if layers is None:
            return activation_of_rows(states[0], dims, self.tokens, indices, coords, normed)
        rows = [stack_layers(row) for row in zip(*states, strict=True)]
        return activation_of_rows(rows, ("layer", *dims), self.tokens, indices, {"layer": layers, **(coords or {})}, normed)


def _requested_layers(layer: int | None, layers: Iterable[int] | None, depth: int, kind: str) -> tuple[int, ...] | None:
    """The numbers that `layer` or `layers` names, negative ones counted from the end; None if both are None.

    Raises:
        NotRead: not numbers.
    """
    if layer is None and layers is None:
        return None
    single = as_int(layer)
    numbers = as_ints(layers) if layer is None else (single,) if single is not None else None
    if not numbers:
        raise NotRead(f"The {kind} {layer if layer is not None else layers!r} was asked for: layer= takes a number, layers= several.")
    return tuple(number % depth if -depth <= number < 0 else number for number in numbers)


def _selected_layers(read: Sequence[int], requested: Sequence[int] | None, kind: str) -> tuple[int, ...]:
    """The requested numbers; all that were read if that is None.

    Raises:
        NotRead: a number that was not read.
    """
    if requested is None:
        return tuple(read)
    missing = [number for number in requested if number not in read]
    if missing:
        raise NotRead(f"Not read: {kind} {missing[0]}. Read: {', '.join(map(str, read))}.")
    return tuple(requested)


def _only_read(reads: Sequence[tuple[Position | None, ...]], captured: Iterable[Position | None], kind: str) -> tuple[Position | None, ...]:
    """The positions meant if none is named: those of the only read, or every position if that was read."""
    read = list(captured)
    if not read:
        raise NotRead(nothing_read(kind))
    reads = reads or (tuple(dict.fromkeys(read)),)  # states before the final norm alone, or projected tokens
    if (None,) in reads:
        return (None,)
    if len(reads) != 1:
        raise NotRead(f"Name a position: {kind} were read at {position_names(read)}.")
    return reads[0]
