"""Checkpoints by name: the alias "glyphs" of the embedded models, and backbones that can be segmented with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import probe
from fseg import glyphs
from fseg.errors import InvalidRecipe

if TYPE_CHECKING:
    import torch

EMBEDDED = "glyphs"


def backbone_path(name: str | os.PathLike[str]) -> str:
    """A backbone's hub id or folder: for "glyphs" the embedded model's folder, otherwise the name as given.

    >>> backbone_path("llava-hf/llava-1.5-7b-hf")
    'llava-hf/llava-1.5-7b-hf'
    """
    return os.fspath(glyphs.llava_folder() if name == EMBEDDED else name)


def sam_path(name: str | os.PathLike[str]) -> str:
    """A SAM's hub id, folder or file: for "glyphs" the embedded model's file, otherwise the name as given.

    >>> sam_path("sam_vit_h_4b8939.pth")
    'sam_vit_h_4b8939.pth'
    """
    return os.fspath(glyphs.sam_file() if name == EMBEDDED else name)


def load_backbone(backbone: str | Path | probe.Probe, device: str | torch.device | None, dtype: str | torch.dtype | None) -> probe.Probe:
    """A backbone that can be segmented with: loaded by its name, or the loaded one, checked.

    Raises:
        InvalidRecipe: neither a name nor a model, another device or dtype than the loaded model's, or no known grid.
        ProcessorNeeded, LoadError: see `probe.load`.
    """
    if isinstance(backbone, probe.Probe):
        _check_device_and_dtype(backbone, device, dtype)
        return _check_backbone(backbone)
    if not isinstance(backbone, (str, Path)):
        raise InvalidRecipe(
            f"backbone= is a {type(backbone).__name__}. Give a hub id, a folder, or a loaded model as "
            'probe.load(model=..., processor=..., resize="stretch", tiles=False).'
        )
    try:
        return probe.load(backbone_path(backbone), device=device, dtype=dtype, resize="stretch", tiles=False)
    except probe.errors.NoDirectResize as error:
        raise _without_grid(str(backbone)) from error


def _check_device_and_dtype(model: probe.Probe, device: str | torch.device | None, dtype: str | torch.dtype | None) -> None:
    """Refuse a device or dtype that is not the loaded model's: it is not moved or converted, since others may use it."""
    from probe.loading.devices import resolve_device, resolve_dtype  # imports torch, which paths alone do not need

    asked_device, asked_dtype = None if device is None else resolve_device(device), resolve_dtype(dtype)
    actual_device, actual_dtype = model.model.device, model.model.dtype
    if asked_device is not None and not _same_device(asked_device, actual_device):
        raise InvalidRecipe(
            f"device={str(asked_device)!r} was asked for, and the loaded backbone is on {str(actual_device)!r}. Leave device out, or load the "
            "backbone with probe.load(..., device=...)."
        )
    if asked_dtype is not None and asked_dtype != actual_dtype:
        raise InvalidRecipe(
            f"dtype={_dtype_name(asked_dtype)!r} was asked for, and the loaded backbone has {_dtype_name(actual_dtype)!r}. Leave dtype out, or "
            "load the backbone with probe.load(..., dtype=...)."
        )


def _same_device(asked: torch.device, actual: torch.device) -> bool:
    """Whether the devices are the same; "cuda" without a number is any of the GPUs."""
    return asked.type == actual.type and asked.index in (None, actual.index or 0)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_backbone(model: probe.Probe) -> probe.Probe:
    """The loaded model, if it can ask questions and sees the whole image on a known grid."""
    if model.processor is None:
        raise probe.errors.ProcessorNeeded(f"{model!r} has no processor to ask with. Open it with probe.load(model=..., processor=...).")
    if not model.backbone.resizes_directly:
        raise _without_grid(model.family)
    if not model.encoder.direct:
        raise InvalidRecipe(
            f"{model!r} prepares images by its processor, which may crop them or cut tiles; points and boxes would land elsewhere. "
            'Open it with probe.load(..., resize="stretch", tiles=False).'
        )
    return model


def _without_grid(name: str) -> InvalidRecipe:
    return InvalidRecipe(
        f"{name} cannot be segmented with yet: its family does not say where image tokens lie when an image is resized directly, and points "
        "and boxes need that. Give a LLaVA-1.5, a VipLLaVA or a LLaVA-1.6."
    )
