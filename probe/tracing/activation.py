"""Activation: a tensor whose axes have names and, where it shows an image, a way back onto the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from probe.errors import GridUnknown, InvalidRead, NotRead, PackageNeeded
from probe.tokens.layout import Grid, ImageLayout
from probe.tracing.selecting import labels_between, numbers_of, place_of, slice_of

DIMS = ("layer", "batch", "head", "query", "key", "token", "feature", "row", "col", "height", "width")
"""Every axis name, in the order in which axes appear."""


@dataclass(frozen=True, eq=False)
class Activation:
    """What a model did at some layers and positions. Behaves as an array does: `len(a)`, `a[0]`, `a[:, 2:5]`, `numpy.asarray(a)`.

    Attributes:
        data: the tensor, in the dtype that the model computed in (attention rows: float32).
        dims: one name of `DIMS` for each axis of `data`.
        coords: what an axis counts, where that is not 0, 1, 2...: `layer` numbers, `token`, `query` and `key` positions.
        layout: where the tokens of the `token` or `key` axis lie on the image, if they are one whole image.
        view: the grid that `row` and `col` were folded to.
        no_grid_reason: why there is no layout.
    """

    data: Tensor
    dims: tuple[str, ...]
    coords: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    layout: ImageLayout | None = None
    view: Grid | None = None
    no_grid_reason: str = ""

    def __post_init__(self) -> None:
        if self.data.ndim != len(self.dims):
            raise InvalidRead(
                f"A tensor of shape {tuple(self.data.shape)} has {self.data.ndim} axes, and {len(self.dims)} names were given for them "
                f"({', '.join(self.dims) or 'none'}). Give one name an axis."
            )
        for dim, size in self.shape.items():
            if len(self.coords.get(dim, range(size))) != size:
                raise InvalidRead(f"The axis {dim} is {size} long and has {len(self.coords[dim])} coordinates. Give one a place.")

    @property
    def shape(self) -> dict[str, int]:
        """Axis name -> length."""
        return dict(zip(self.dims, self.data.shape, strict=True))

    def __repr__(self) -> str:
        axes = ", ".join(f"{dim}={size}" for dim, size in self.shape.items())
        return f"Activation({axes}; {str(self.data.dtype).removeprefix('torch.')})"

    def __len__(self) -> int:
        if not self.dims:
            raise NotRead(f"{self!r} is a single number without an axis, and has no length. Take it as float(a.data).")
        return len(self.data)

    def __iter__(self) -> Iterator[Activation]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, places: Any) -> Activation:
        """Positions along the axes in their order, as an array has them: numbers drop their axis, lists and slices keep it.

        Raises:
            NotRead: beyond an axis' end, more places than axes, or none of the above.
        """
        given = places if isinstance(places, tuple) else (places,)
        gaps = [number for number, place in enumerate(given) if place is Ellipsis]
        if len(gaps) > 1 or len(given) - len(gaps) > len(self.dims):
            raise NotRead(f"{len(given)} places were asked for, one an axis; the axes here are {', '.join(self.dims) or 'none'}.")
        before, behind = (given[: gaps[0]], given[gaps[0] + 1 :]) if gaps else (given, ())
        named = zip((*self.dims[: len(before)], *self.dims[len(self.dims) - len(behind) :]), (*before, *behind), strict=True)
        return self.isel(**dict(named))

    def sel(self, **labels: int | Sequence[int] | slice) -> Activation:
        """Labels of each named axis: `sel(layer=12, head=0)`. A layer is named by its number, a token by its position.

        A number drops the axis, a list or a range keeps it. A negative number counts from the last label: `sel(layer=-1)` is the last
        layer that was read. A slice takes the labels from its start up to, without, its stop.

        Raises:
            NotRead: no such axis or label, or one that stands there twice; the message lists those there are.
        """
        result = self
        for dim, label in labels.items():
            known = result._labels(dim)
            if isinstance(label, slice):
                result = result._taken(dim, labels_between(label, known, dim))
            else:
                numbers, single = numbers_of(label, f"{dim} {label!r}", f"sel({dim}=...)")
                found = [place_of(number, known, dim) for number in numbers]
                result = result._dropped(dim, found[0]) if single else result._taken(dim, found)
        return result

    def isel(self, **places: int | Sequence[int] | slice) -> Activation:
        """Positions along each named axis, counted from 0 or, negative, from the end: `isel(token=-1)` is a name's last sub-token.

        A number drops the axis, a list or a slice keeps it.

        Raises:
            NotRead: no such axis, or beyond its end.
        """
        result = self
        for dim, place in places.items():
            size = result.data.shape[result._axis(dim)]
            if isinstance(place, slice):
                result = result._taken(dim, slice_of(place, size, dim))
                continue
            numbers, single = numbers_of(place, f"Place {place!r} of {dim}", f"isel({dim}=...)")
            beyond = [number for number in numbers if not -size <= number < size]
            if beyond:
                raise NotRead(f"Place {beyond[0]} of {dim} was asked for; this activation has {size} of them.")
            found = [number % size for number in numbers]
            result = result._dropped(dim, found[0]) if single else result._taken(dim, found)
        return result

    def cosine(self, other: Activation) -> Activation:
        """Cosine similarity along `feature`, in float32: of every token here with the one feature of `other` at the same layer and batch row.

        Args:
            other: its axes are some of this one's, with equal lengths; what it lacks (a token, a row and column) it is compared along.

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
        """The mean over these axes, in float32 (of everything, without names)."""
        return self.reduce("mean", *dims)

    def reduce(self, how: str, *dims: str) -> Activation:
        """`mean`, `sum`, `max` or `min` over these axes, in float32."""
        functions: dict[str, Callable[..., Tensor]] = {"mean": torch.mean, "sum": torch.sum, "max": torch.amax, "min": torch.amin}
        if how not in functions:
            raise InvalidRead(f"reduce({how!r}): one of {', '.join(functions)} was expected.")
        result = replace(self, data=self.data.float())
        for dim in dims or self.dims:
            result = result._without(dim, functions[how](result.data, dim=result._axis(dim)))
        return result

    def map(self, data: Tensor) -> Activation:
        """Another tensor of the same axes, such as an arithmetic result, that keeps this one's names and its way back onto the image.

        An axis of another length loses its coordinates, and with them the way back: nothing says which layers or tokens are left.

        Raises:
            NotRead: the tensor has another number of axes.
        """
        if data.ndim != self.data.ndim:
            raise NotRead(f"map() keeps the axes of {self!r}, and was given a tensor of shape {tuple(data.shape)}. Keep one axis for each.")
        changed = {dim for dim, size in self.shape.items() if data.shape[self._axis(dim)] != size}
        return replace(self._without_grid(changed), data=data) if changed else replace(self, data=data)

    def grid(self, view: str | None = None) -> Activation:
        """The `token` or `key` axis folded to (row, col), newline and separator tokens left out.

        Args:
            view: which view of the image, where it has several ("base" or "tiles").

        Raises:
            GridUnknown: the tokens are not one whole image, or the family does not say where they lie.
        """
        dim = "key" if "key" in self.dims else "token"
        axis = self._axis(dim)
        if self.layout is None:
            raise GridUnknown(f"{self!r} cannot be folded onto the image: {self.no_grid_reason or 'it is not read at an image'}.")
        grid = self.layout.grid(view)
        cells = self.data.index_select(axis, torch.tensor(grid.tokens, device=self.data.device))
        before, after = self.dims[:axis], self.dims[axis + 1 :]
        names = " ".join(before), " ".join(after)
        data = rearrange(cells, f"{names[0]} (row col) {names[1]} -> {names[0]} row col {names[1]}", row=grid.rows, col=grid.cols)
        coords = {name: label for name, label in self.coords.items() if name != dim}
        return Activation(data, (*before, "row", "col", *after), coords, view=grid)

    def to_pixels(self) -> Activation:
        """(row, col) -> (height, width) of the original image, bilinear between cell centres; NaN where the model did not look.

        Raises:
            GridUnknown: the activation is not folded onto a grid.
        """
        if self.view is None or self.dims[-2:] != ("row", "col"):
            raise GridUnknown(f"{self!r} is not a map on a grid. Fold it first: .grid().to_pixels(), with (row, col) as its last axes.")
        height, width = self.view.image_size
        leading = self.data.shape[:-2]
        maps = self.data.float().reshape(-1, 1, *self.data.shape[-2:])
        down, across = (torch.from_numpy(places).to(maps) for places in self.view.pixel_coordinates())
        x, y = ((places + 0.5) / count * 2 - 1 for places, count in ((across, self.view.cols), (down, self.view.rows)))
        where = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), dim=-1)[None]
        pixels = torch.nn.functional.grid_sample(
            maps, where.expand(len(maps), -1, -1, -1), mode="bilinear", padding_mode="border", align_corners=False
        )
        seen = ~(x.isnan()[None, :] | y.isnan()[:, None])
        pixels = torch.where(seen, pixels, torch.nan).reshape(*leading, height, width)
        return Activation(pixels, (*self.dims[:-2], "height", "width"), self.coords)

    def numpy(self) -> np.ndarray[Any, Any]:
        """The data as a numpy array on the CPU; bfloat16 becomes float32, which numpy has."""
        data = self.data.detach().cpu()
        return (data.float() if data.dtype == torch.bfloat16 else data).numpy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def to_xarray(self) -> Any:
        """The data as an `xarray.DataArray` with the same names.

        Raises:
            PackageNeeded: xarray is not installed.
        """
        try:
            import xarray
        except ModuleNotFoundError as error:
            raise PackageNeeded("to_xarray() needs xarray, which is not installed: pip install 'fseg-llava[xarray]'.") from error
        return xarray.DataArray(
            self.numpy(), dims=self.dims, coords={name: list(label) for name, label in self.coords.items() if name in self.dims}
        )

    def _axis(self, dim: str) -> int:
        if dim not in self.dims:
            raise NotRead(f"No axis {dim!r} in {self!r}.")
        return self.dims.index(dim)

    def _labels(self, dim: str) -> tuple[int, ...]:
        return self.coords.get(dim, tuple(range(self.data.shape[self._axis(dim)])))

    def _dropped(self, dim: str, place: int) -> Activation:
        return self._without(dim, self.data.select(self._axis(dim), place))

    def _taken(self, dim: str, places: Sequence[int]) -> Activation:
        """Some places of an axis, with their labels; the same object where they are all, in order."""
        axis, known = self._axis(dim), self._labels(dim)
        if tuple(places) == tuple(range(len(known))):
            return self
        data = self.data.index_select(axis, torch.tensor(list(places), dtype=torch.long, device=self.data.device))
        bare = self._without_grid({dim})
        return replace(bare, data=data, coords={**bare.coords, dim: tuple(known[place] for place in places)})

    def _without(self, dim: str, data: Tensor) -> Activation:
        return replace(self._without_grid({dim}), data=data, dims=tuple(d for d in self.dims if d != dim))

    def _without_grid(self, changed: set[str]) -> Activation:
        """The same without what is known of these axes' places."""
        tokens, cells = changed & {"token", "key"}, changed & {"row", "col"}
        return replace(
            self,
            coords={name: label for name, label in self.coords.items() if name not in changed},
            layout=None if tokens else self.layout,
            view=None if cells else self.view,
            no_grid_reason="it is a part of what was read there" if tokens and self.layout else self.no_grid_reason,
        )
