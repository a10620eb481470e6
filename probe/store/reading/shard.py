"""One shard of a store, opened when something of it is asked for."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from probe.store.format.contexts import Layout, layout_of, tokens_of, unrolled
from probe.store.format.manifest import StoredRead, column
from probe.store.format.records import ContextRecord
from probe.store.format.shards import ShardItems, read_items, tensors_path
from probe.store.format.tensor_file import TensorFile
from probe.tokens.spans import TokenMap
from probe.tracing.activation import Activation


class Shard:
    """A shard: its items at once, its tensors when they are asked for.

    Attributes:
        number: which one.
        good: the positions of its items that did not fail.

    Raises:
        DamagedStore: its JSON file is damaged.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self._folder = folder
        self.described: ShardItems = read_items(folder, number)
        self.good = [position for position, item in enumerate(self.described.items) if "error" not in item]

    @cached_property
    def file(self) -> TensorFile:
        """The tensors.

        Raises:
            DamagedStore: the file is missing or cut short.
        """
        return TensorFile(tensors_path(self._folder, self.number), self.described.tensors["bytes"])

    @cached_property
    def layouts(self) -> list[Layout]:
        """The layouts of its contexts."""
        return [layout_of(values) for values in self.described.layouts]

    def offsets(self, name: str) -> list[int]:
        """Where the rows of each item begin, in the tensors of a read, `r0`, or in `tokens`."""
        if name not in self._offsets:
            self._offsets[name] = self.file.tensor(f"{name}.offsets").tolist()
        return self._offsets[name]

    @cached_property
    def _offsets(self) -> dict[str, list[int]]:
        return {}

    def rows(self, read: int, layer: int | None) -> Tensor:
        """The rows of all items, without a copy."""
        return self.file.tensor(column(read, layer))

    def of_item(self, position: int, read: int, layer: int | None) -> Tensor:
        """One item at one layer, in its shape, without a copy."""
        first, stop = self.offsets(f"r{read}")[position : position + 2]
        shape = self.context(position)["reads"][read]["shape"]
        return self.file.tensor(column(read, layer), first, stop).view(shape)

    def context(self, position: int) -> ContextRecord:
        """How the tokens of an item are named."""
        return self.described.contexts[self.described.items[position]["context"]]

    def tokens(self, position: int) -> TokenMap:
        """The tokens of an item, by name; their text needs the model's tokenizer."""
        first, stop = self.offsets("tokens")[position : position + 2]
        return tokens_of(self.context(position), self.layouts, self.file.tensor("tokens", first, stop).tolist())

    def activation(self, position: int, read: int, stored: StoredRead, layers: tuple[int | None, ...]) -> Activation:
        """One item's activation of a read, at some of its layers, with its positions and its grid."""
        kept = self.context(position)["reads"][read]
        parts = [self.of_item(position, read, layer) for layer in layers]
        coords = {dim: unrolled(labels) for dim, labels in kept["coords"].items()}
        if stored.heads is not None:
            coords["head"] = stored.heads
        dims, data, normed = stored.dims, parts[0], stored.normed
        if layers != (None,):
            dims, data = ("layer", *dims), parts[0][None] if len(parts) == 1 else torch.stack(parts)
            coords["layer"] = tuple(layer for layer in layers if layer is not None)
            normed = normed and tuple(normed[stored.layers.index(layer)] for layer in layers)
        layout = None if (number := kept.get("layout")) is None else self.layouts[number]
        return Activation(data, dims, coords, layout=layout, no_grid_reason=kept.get("no_grid", ""), normed=normed)
