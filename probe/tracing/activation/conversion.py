"""What an activation is outside of torch: a NumPy array, an xarray."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from probe.errors import InvalidRead, PackageNeeded
from probe.notebook import Html
from probe.tokens.layout import ImageLayout
from probe.tokens.video import VideoLayout
from probe.tracing.activation.notebook import shown

if TYPE_CHECKING:
    import xarray


NAMED = ("word", "place")
"""The axes whose indices have names, `Activation.words`."""


class _Labelled(Protocol):
    """A tensor with named axes."""

    @property
    def data(self) -> Tensor: ...
    @property
    def dims(self) -> tuple[str, ...]: ...
    @property
    def coords(self) -> Mapping[str, tuple[int, ...]]: ...
    @property
    def layout(self) -> ImageLayout | VideoLayout | None: ...
    @property
    def words(self) -> tuple[str, ...]: ...
    def numpy(self) -> NDArray[np.generic]: ...


class Convertible:
    """What a tensor with named axes is in other libraries."""

    def numpy(self: _Labelled) -> NDArray[np.generic]:
        """The data as a NumPy array on the CPU; bfloat16, which NumPy lacks, becomes float32.

        >>> probe.Activation(torch.ones(2, dtype=torch.bfloat16), ("feature",)).numpy()
        array([1., 1.], dtype=float32)
        """
        data = self.data.detach().cpu()
        return (data.float() if data.dtype == torch.bfloat16 else data).numpy()

    def _repr_html_(self: _Labelled) -> Html:
        return shown(type(self).__name__, self.data, self.dims, self.coords, self.layout)

    def __array__(self: _Labelled, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[np.generic]:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __array_function__(
        self, function: Callable[..., object], types: Iterable[type], args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> object:
        """NumPy's functions, such as `numpy.mean(a, axis=0)`, take an activation as the array that it is and return arrays."""
        return function(*map(_as_array, args), **{name: _as_array(value) for name, value in kwargs.items()})

    def to_xarray(self: _Labelled) -> xarray.DataArray:
        """The data as an `xarray.DataArray` with the same axis names and coordinates.

        Raises:
            PackageNeeded: xarray is not installed.
        """
        try:
            import xarray
        except ModuleNotFoundError as error:
            raise PackageNeeded("to_xarray() needs xarray, which is not installed: pip install 'fseg-llava[xarray]'.") from error
        coords: dict[str, list[int] | list[str]] = {name: list(label) for name, label in self.coords.items() if name in self.dims}
        coords |= {dim: list(self.words) for dim in NAMED if self.words and dim in self.dims}
        return xarray.DataArray(self.numpy(), dims=self.dims, coords=coords)


def _as_array(value: object) -> object:
    """Activations as arrays, also inside lists and tuples."""
    if isinstance(value, Convertible):
        return np.asarray(value)
    return type(value)(map(_as_array, value)) if isinstance(value, (list, tuple)) else value


def as_targets(targets: tuple[str | torch.device | torch.dtype, ...]) -> dict[str, torch.device | torch.dtype]:
    """The device and the dtype among what `Activation.to` was given, by the names of `Tensor.to`'s arguments.

    Raises:
        InvalidRead: neither a device nor a dtype, or two of one kind.
    """
    found: dict[str, torch.device | torch.dtype] = {}
    for target in targets:
        value = _named(target) if isinstance(target, str) else target
        kind = "device" if isinstance(value, torch.device) else "dtype"
        if not isinstance(value, (torch.device, torch.dtype)) or kind in found:
            raise InvalidRead(
                f"to({', '.join(map(repr, targets))}): one device, such as 'cuda:0' or 'cpu', one dtype, such as torch.float32, or both."
            )
        found[kind] = value
    return found


def _named(name: str) -> torch.device | torch.dtype | None:
    """The dtype or the device of this name."""
    dtype = getattr(torch, name, None)
    if isinstance(dtype, torch.dtype):
        return dtype
    try:
        return torch.device(name)
    except RuntimeError:
        return None
