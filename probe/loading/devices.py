"""Devices and dtypes by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from probe.errors import DeviceNotFound, LoadError

DeviceMap = str | Mapping[str, int | str | torch.device] | None
"""accelerate's `device_map`."""


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device of this name; the CPU by default.

    Raises:
        DeviceNotFound: this machine has no such device; those it has are named.
    """
    try:
        resolved = torch.device(device or "cpu")
    except (RuntimeError, TypeError) as error:
        raise DeviceNotFound(f"No device {device!r}. Names are cpu, cuda, cuda:0, mps.") from error
    available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        available.append("mps")
    named = f"cuda:{resolved.index or 0}" if resolved.type == "cuda" else resolved.type
    if resolved.type in ("cpu", "cuda", "mps") and named not in available:
        raise DeviceNotFound(f"Device {str(resolved)!r} was asked for, this machine has {', '.join(available)}.")
    return resolved


def resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The dtype of this name, such as "bfloat16"; None stays None."""
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else None
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise LoadError(f"No dtype {dtype!r}. Use float32, bfloat16, float16 or float64.")
    return found


def default_dtype(device: torch.device, device_map: DeviceMap) -> torch.dtype | None:
    """float32 for a model on the CPU; None (the checkpoint's own) elsewhere.

    Args:
        device: where the model goes without a `device_map`.
        device_map: accelerate's.
    """
    if device_map is None:
        devices = [device.type]
    elif isinstance(device_map, Mapping):
        devices = [str(device) for device in device_map.values()]
    elif device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        devices = ["accelerator" if torch.accelerator.is_available() else "cpu"]
    else:
        devices = [str(device_map)]
    return torch.float32 if all(name == "cpu" for name in devices) else None
