"""Activation: a tensor with named axes that can be folded back onto the image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import EllipsisType
from typing import SupportsIndex

import torch
from torch import Tensor

from probe.errors import GridUnknown, InvalidRead, NotRead
from probe.tokens.equality import equal_fields
from probe.tokens.layout import Grid, ImageLayout
from probe.tokens.video import VideoLayout
from probe.tracing.activation.arithmetic import Arithmetic
from probe.tracing.activation.conversion import NAMED, Convertible, as_targets
from probe.tracing.activation.folding import fold
from probe.tracing.activation.indexing import as_indices, as_labels, index_of_label, indices_of_labels, indices_of_slice
from probe.tracing.activation.pixels import sample_pixels

DIMS = ("layer", "batch", "head", "query", "key", "token", "place", "feature", "word", "frame", "row", "col", "height", "width")
"""Every axis name, in the order in which axes appear."""

Index = SupportsIndex | Sequence[int] | slice | EllipsisType
"""What selects along an axis: one index, several, a slice, or an ellipsis for all axes in between."""


@dataclass(frozen=True, eq=False)
class Activation(Convertible, Arithmetic):
    """What a model computed at some layers and positions: a tensor with named axes.

    Behaves as an array does: `len(a)`, `a[0]`, `a[:, 2:5]`, `a - b`, `numpy.mean(a, axis=0)`. Two are equal where their values, axes and coordinates are.

    Attributes:
        data: the tensor, in the dtype that the model computed in (attention rows: float32).
        dims: one name of `DIMS` for each axis of `data`.
        coords: the labels of an axis, where they are not 0, 1, 2...: `layer` numbers; `token`, `query` and `key` positions.
        layout: positions on the image of the tokens of the `token` or `key` axis, if they are one whole image, video or frame.
        view: the grid that `row` and `col` were folded to.
        no_grid_reason: why there is no layout.
        normed: of hidden states, whether they are after the model's final norm: one value for each layer of the `layer` axis, a single one
            without that axis. None: not hidden states, or not known.
        words: the names along the axis `word` of a lens, whose coordinates are token ids, or `place` of a causal trace; `sel` takes them.

    >>> states = probe.Activation(torch.arange(6.0).reshape(3, 2), ("layer", "feature"), {"layer": (7, 9, 11)})
    >>> states
    Activation(layer=3, feature=2; float32)
    >>> states.sel(layer=9).data
    tensor([2., 3.])
    """

    data: Tensor
    dims: tuple[str, ...]
    coords: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    layout: ImageLayout | VideoLayout | None = None
    view: Grid | None = None
    no_grid_reason: str = ""
    normed: tuple[bool, ...] | None = None
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.data.ndim != len(self.dims):
            raise InvalidRead(
                f"A tensor of shape {tuple(self.data.shape)} has {self.data.ndim} axes, and {len(self.dims)} names were given for them "
                f"({', '.join(self.dims) or 'none'}). Give each axis one name."
            )
        for dim, size in self.shape.items():
            if len(self.coords.get(dim, range(size))) != size:
                raise InvalidRead(f"The axis {dim} is {size} long and has {len(self.coords[dim])} coordinates. Give each index one.")
        if len(self.words) not in (0, *(self.shape[dim] for dim in NAMED if dim in self.dims)):
            raise InvalidRead(f"{len(self.words)} words were given for {self!r}. Give each index of its axis word or place one.")
        layers = self.shape.get("layer", 1)
        if self.normed is not None and len(self.normed) != layers:
            raise InvalidRead(f"normed={self.normed} has {len(self.normed)} values for {layers} layers. Give each layer one.")

    @property
    def shape(self) -> dict[str, int]:
        """Axis name -> length."""
        return dict(zip(self.dims, self.data.shape, strict=True))

    def __repr__(self) -> str:
        axes = ", ".join(f"{dim}={size}" for dim, size in self.shape.items())
        return f"{type(self).__name__}({axes}; {str(self.data.dtype).removeprefix('torch.')})"

    def __len__(self) -> int:
        if not self.dims:
            raise NotRead(f"{self!r} is a single number without an axis, and has no length. Take it as float(a.data).")
        return len(self.data)

    def __iter__(self) -> Iterator[Activation]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Activation) or type(self) is not type(other):
            return NotImplemented
        return equal_fields(self, other)

    __hash__ = None  # type: ignore[assignment]

    def __getitem__(self, indices: Index | tuple[Index, ...]) -> Activation:
        """Select by index along the axes in their order, as in an array.

        A number drops its axis, lists and slices keep it.

        Raises:
            NotRead: an index beyond an axis' end, or more indices than axes.
        """
        given = indices if isinstance(indices, tuple) else (indices,)
        gaps = [number for number, index in enumerate(given) if index is Ellipsis]
        if len(gaps) > 1 or len(given) - len(gaps) > len(self.dims):
            raise NotRead(
                f"{len(given)} indices were given, at most one for each axis; the axes here are {', '.join(self.dims) or 'none'}."
            )
        before, after = (given[: gaps[0]], given[gaps[0] + 1 :]) if gaps else (given, ())
        dims = (*self.dims[: len(before)], *self.dims[len(self.dims) - len(after) :])
        return self._select_indices(dict(zip(dims, (*before, *after), strict=True)))

    def rows(self) -> tuple[Activation, ...]:
        """Each row of the batch as an activation of its own, with a `batch` axis of length 1.

        Works alike where the rows have spans of different lengths (a `RaggedActivation`).

        >>> batch = probe.Activation(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), ("batch", "token"))
        >>> [row.data.tolist() for row in batch.rows()]
        [[[1.0, 2.0]], [[3.0, 4.0]]]

        Raises:
            NotRead: there is no batch axis.
        """
        return tuple(self.isel(batch=[row]) for row in range(self.data.shape[self._axis("batch")]))

    def sel(self, **labels: SupportsIndex | str | Sequence[int] | Sequence[str] | slice) -> Activation:
        """Select by label along named axes: `sel(layer=12, head=0)`.

        A layer's and a head's label is its number, a token's its position, a word's the word. A number drops the axis, a list or a range
        keeps it. A negative number counts from the last label: `sel(layer=-1)` is the last layer that was read. A slice takes the labels
        from its start up to its stop, which is left out.

        >>> states = probe.Activation(torch.arange(3.0), ("layer",), {"layer": (7, 9, 11)})
        >>> states.sel(layer=[11, 7]).data
        tensor([2., 0.])

        Raises:
            NotRead: no such axis or label, or a label that occurs twice; the message lists the labels.
        """
        result = self
        for dim, label in labels.items():
            known = result._labels(dim)
            if isinstance(label, slice):
                result = result._taken(dim, indices_of_labels(label, known, dim))
            else:
                numbers, single = as_indices(as_labels(label, dim, result.words, known), f"{dim} {label!r}", f"sel({dim}=...)")
                indices = [index_of_label(number, known, dim) for number in numbers]
                result = result._dropped(dim, indices[0]) if single else result._taken(dim, indices)
        return result

    def isel(self, **indices: SupportsIndex | Sequence[int] | slice) -> Activation:
        """Select by index along named axes: `isel(token=-1)` is a word's last token.

        Indices count from 0 or, negative, from the end. A number drops the axis, a list or a slice keeps it.

        >>> probe.Activation(torch.arange(3.0), ("token",)).isel(token=-1).data
        tensor(2.)

        Raises:
            NotRead: no such axis, or an index beyond its end.
        """
        return self._select_indices(indices)

    def to(self, *targets: str | torch.device | torch.dtype) -> Activation:
        """The same on a device, in a dtype, or both: `to("cuda")`, `to(torch.float32)`, `to("cpu", torch.float16)`.

        >>> probe.Activation(torch.ones(2, dtype=torch.bfloat16), ("feature",)).to("cpu", torch.float32)
        Activation(feature=2; float32)

        Raises:
            InvalidRead: neither a device nor a dtype, or two of one kind.
        """
        moved: Tensor = self.data.to(**as_targets(targets))  # type: ignore[call-overload]
        return replace(self, data=moved)

    def cosine(self, other: Activation) -> Activation:
        """Cosine similarity along `feature`, in float32, with `other` broadcast along the axes that it lacks.

        Args:
            other: its axes are some of this one's, with equal lengths, such as one token's features at the same layers.

        >>> image = probe.Activation(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), ("token", "feature"))
        >>> image.cosine(probe.Activation(torch.tensor([1.0, 0.0]), ("feature",))).data
        tensor([0.6000, 0.0000])

        Raises:
            NotRead: an axis of `other` that is not here, or is of another length.
        """
        self._axis("feature")
        for dim, size in other.shape.items():
            if self.shape.get(dim) != size:
                raise NotRead(
                    f"{other!r} cannot be compared with {self!r} along {dim}. Select one feature of it first, as by .isel({dim}=-1)."
                )
        aligned = other.data.reshape([other.shape.get(dim, 1) for dim in self.dims])
        axis = self._axis("feature")
        return self._without("feature", torch.cosine_similarity(self.data.float(), aligned.float(), dim=axis))

    def mean(self, *dims: str) -> Activation:
        """The mean over these axes, in float32; over all of them if none is named.

        >>> float(probe.Activation(torch.tensor([1.0, 2.0]), ("token",)).mean().data)
        1.5
        """
        return self.reduce("mean", *dims)

    def reduce(self, how: str, *dims: str) -> Activation:
        """`mean`, `sum`, `max` or `min` over these axes, in float32; over all of them if none is named.

        >>> float(probe.Activation(torch.tensor([1.0, 2.0]), ("token",)).reduce("max", "token").data)
        2.0

        Raises:
            InvalidRead: another reduction.
        """
        functions: dict[str, Callable[..., Tensor]] = {"mean": torch.mean, "sum": torch.sum, "max": torch.amax, "min": torch.amin}
        if how not in functions:
            raise InvalidRead(f"reduce({how!r}): one of {', '.join(functions)} was expected.")
        result = replace(self, data=self.data.float())
        for dim in dims or self.dims:
            result = result._without(dim, functions[how](result.data, dim=result._axis(dim)))
        return result

    def map(self, data: Tensor) -> Activation:
        """Another tensor with the same axes, such as an arithmetic result; it keeps coordinates and layout.

        An axis whose length changes loses its coordinates and its layout: nothing says which layers or tokens are left.

        >>> states = probe.Activation(torch.arange(3.0), ("layer",), {"layer": (7, 9, 11)})
        >>> states.map(states.data * 2).sel(layer=9).data
        tensor(2.)

        Raises:
            NotRead: the tensor has another number of axes.
        """
        if data.ndim != self.data.ndim:
            raise NotRead(f"map() keeps the axes of {self!r}, and was given a tensor of shape {tuple(data.shape)}. Keep every axis.")
        changed = {dim for dim, size in self.shape.items() if data.shape[self._axis(dim)] != size}
        return replace(self._without_grid(changed), data=data) if changed else replace(self, data=data)

    def grid(self, view: str | None = None) -> Activation:
        """The `token` or `key` axis folded to (row, col), or a video's to (frame, row, col), newline and separator tokens left out.

        The labels of `frame` are the numbers of the frames, of merged ones the first.

        Args:
            view: name of a view, where the image has several ("base" or "tiles").

        >>> trace = model.run(model.encode(image, "Is there a cat?"), probe.Hidden(layers=4, at="image"))
        >>> trace.hidden(layer=4).grid()
        Activation(batch=1, row=14, col=14, feature=128; float32)

        Raises:
            GridUnknown: the tokens are not one whole image, or the family does not say where they lie.
        """
        dim = "key" if "key" in self.dims else "token"
        self._axis(dim)
        if self.layout is None:
            raise GridUnknown(f"{self!r} cannot be folded onto the image: {self.no_grid_reason or 'it is not read at an image'}.")
        data, dims, frames, grid = fold(self.data, self.dims, dim, self.layout, view)
        coords = {name: label for name, label in self.coords.items() if name != dim} | frames
        return Activation(data, dims, coords, view=grid, normed=self.normed, words=self.words)

    def to_pixels(self) -> Activation:
        """A map on a grid (row, col) as a map on the original image's, or each frame's, pixels (height, width).

        Bilinear between cell centres; NaN where no cell covers a pixel.

        >>> trace = model.run(model.encode(image, "Is there a cat?"), probe.Hidden(layers=4, at="image"))
        >>> heat = trace.hidden(layer=4).grid().mean("batch", "feature").to_pixels()
        >>> heat.shape == {"height": image.height, "width": image.width}
        True

        Raises:
            GridUnknown: the activation is not folded onto a grid.
        """
        if self.view is None or self.dims[-2:] != ("row", "col"):
            raise GridUnknown(f"{self!r} is not a map on a grid. Fold it first: .grid().to_pixels(), with (row, col) as its last axes.")
        return Activation(sample_pixels(self.data, self.view), (*self.dims[:-2], "height", "width"), self.coords, normed=self.normed)

    def _axis(self, dim: str) -> int:
        if dim not in self.dims:
            raise NotRead(f"No axis {dim!r} in {self!r}.")
        return self.dims.index(dim)

    def _labels(self, dim: str) -> tuple[int, ...]:
        return self.coords.get(dim, tuple(range(self.data.shape[self._axis(dim)])))

    def _select_indices(self, indices: Mapping[str, Index]) -> Activation:
        result = self
        for dim, index in indices.items():
            size = result.data.shape[result._axis(dim)]
            if isinstance(index, slice):
                result = result._taken(dim, indices_of_slice(index, size, dim))
                continue
            numbers, single = as_indices(index, f"Index {index!r} of {dim}", f"isel({dim}=...)")
            beyond = [number for number in numbers if not -size <= number < size]
            if beyond:
                raise NotRead(f"Index {beyond[0]} of {dim} was asked for; this activation has {size} of them.")
            counted = [number % size for number in numbers]
            result = result._dropped(dim, counted[0]) if single else result._taken(dim, counted)
        return result

    def _dropped(self, dim: str, index: int) -> Activation:
        result = self._without(dim, self.data.select(self._axis(dim), index))
        return replace(result, normed=self.normed[index : index + 1]) if dim == "layer" and self.normed else result

    def _taken(self, dim: str, indices: Sequence[int]) -> Activation:
        """Some indices of an axis, with their labels; the same object if these are all, in order."""
        axis, known = self._axis(dim), self._labels(dim)
        if tuple(indices) == tuple(range(len(known))):
            return self
        data = self.data.index_select(axis, torch.tensor(list(indices), dtype=torch.long, device=self.data.device))
        bare = self._without_grid({dim})
        return replace(
            bare,
            data=data,
            coords={**bare.coords, dim: tuple(known[index] for index in indices)},
            normed=tuple(self.normed[index] for index in indices) if dim == "layer" and self.normed else bare.normed,
            words=tuple(self.words[index] for index in indices) if dim in NAMED and self.words else bare.words,
        )

    def _without(self, dim: str, data: Tensor) -> Activation:
        """The same without an axis, as after a reduction; it stays normed, or not, where its layers agree."""
        bare = self._without_grid({dim})
        normed = self.normed[:1] if dim == "layer" and self.normed and len(set(self.normed)) == 1 else bare.normed
        return replace(bare, data=data, dims=tuple(d for d in self.dims if d != dim), normed=normed)

    def _without_grid(self, changed: set[str]) -> Activation:
        """The same without the labels of these axes, and without the layout or view that goes with them."""
        tokens, cells = changed & {"token", "key"}, changed & {"row", "col"}
        return replace(
            self,
            coords={name: label for name, label in self.coords.items() if name not in changed},
            layout=None if tokens else self.layout,
            view=None if cells else self.view,
            no_grid_reason="it is a part of what was read there" if tokens and self.layout else self.no_grid_reason,
            normed=None if changed & {"layer", "feature"} else self.normed,
            words=() if changed & {*NAMED} else self.words,
        )
