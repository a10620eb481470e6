"""Checkpoints by name, the embedded models among them, and backbones that can be segmented with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen

import probe
from fseg.checks import check_choice, check_text, checked
from fseg.errors import InvalidRecipe
from fseg.worlds.weights import embedded_backbones, embedded_sams

if TYPE_CHECKING:
    import torch

DEFAULT = "glyphs"
"""The embedded world whose models and recipe are used where none is named."""


def backbone_path(name: str | os.PathLike[str]) -> str:
    """A backbone's hub id or folder: for the name of an embedded backbone its folder, otherwise the name as given.

    >>> backbone_path("llava-hf/llava-1.5-7b-hf")
    'llava-hf/llava-1.5-7b-hf'
    """
    return os.fspath(embedded_backbones().get(os.fspath(name), name))


def sam_path(name: str | os.PathLike[str]) -> str:
    """A SAM's hub id, folder or file: for an embedded world's name the file of its SAM, otherwise the name as given.

    >>> sam_path("sam_vit_h_4b8939.pth")
    'sam_vit_h_4b8939.pth'
    """
    return os.fspath(embedded_sams().get(os.fspath(name), name))


PREPARATIONS = ("stretch", "pad", "processor")
WITH_GRIDS = "LLaVA-1.5, Qwen2.5-VL, InternVL"
"""Some families that FSeg runs on, for messages."""


@frozen
class Backbone:
    """The model that a recipe asks, and how it prepares images.

    Attributes:
        checkpoint: a hub id, a folder, or "glyphs", "stickers" or "stickers-dynamic" for an embedded model.
        prepare: "stretch", the whole image directly at the tower's input size, without tiles, in families that can; "pad", the same of the
            image in the middle of a square, as LLaVA's own code has it; or "processor", what the checkpoint's own processor does: tiles,
            padding, the image's own aspect ratio.

    >>> Backbone("llava-hf/llava-1.5-7b-hf")
    Backbone(checkpoint='llava-hf/llava-1.5-7b-hf', prepare='stretch')
    >>> print(Backbone("glyphs"))
    glyphs
    """

    checkpoint: str = field(validator=checked(check_text))
    prepare: str = field(default="stretch", validator=checked(check_choice, PREPARATIONS))

    def __str__(self) -> str:
        return self.checkpoint


def as_backbone(value: Backbone | str) -> Backbone:
    """A checkpoint's name as a Backbone; a Backbone as it is."""
    return value if isinstance(value, Backbone) else Backbone(value)


def load_backbone(
    backbone: str | Path | probe.Probe, prepare: str, device: str | torch.device | None, dtype: str | torch.dtype | None
) -> probe.Probe:
    """A backbone that can be segmented with: loaded by its name, or the loaded one, checked.

    Args:
        prepare: `Backbone.prepare`. A family that cannot resize an image directly is loaded with its own processor whatever it is.

    Raises:
        InvalidRecipe: neither a name nor a model, another device or dtype than the loaded model's, no known grid, or a loaded model that
            prepares images in another way.
        ProcessorNeeded, LoadError: see `probe.load`.
    """
    if isinstance(backbone, probe.Probe):
        _check_device_and_dtype(backbone, device, dtype)
        _check_backbone(backbone)
        _check_preparation(backbone, prepare)
        return backbone
    if not isinstance(backbone, (str, Path)):
        raise InvalidRecipe(
            f"backbone= is a {type(backbone).__name__}. Give a hub id, a folder, or a loaded model as "
            'probe.load(model=..., processor=..., resize="stretch", tiles=False).'
        )
    return prepared(_check_backbone(probe.load(backbone_path(backbone), device=device, dtype=dtype)), prepare)


def prepared(model: probe.Probe, prepare: str) -> probe.Probe:
    """The same model, which prepares images in this way; by its processor in a family that cannot resize an image directly.

    Args:
        prepare: `Backbone.prepare`.
    """
    if prepare == "processor" or not model.backbone.resizes_directly:
        return model.with_preparation()
    return model.with_preparation(resize="pad" if prepare == "pad" else "stretch", tiles=False)


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


def _check_preparation(model: probe.Probe, prepare: str) -> None:
    """Refuse a loaded model that does not prepare images as the recipe says."""
    wanted = prepare if model.backbone.resizes_directly else "processor"
    if wanted != "processor" and not model.encoder.direct:
        raise InvalidRecipe(
            f'{model!r} prepares images by its processor, and the recipe has backbone.prepare="{prepare}". Open it with '
            f'probe.load(..., resize="{prepare}", tiles=False), or change the recipe: recipe.with_({{"backbone.prepare": "processor"}}).'
        )
    actual = "pad" if model.encoder.preparation.resize == "pad" else "stretch"
    if wanted != actual and model.encoder.direct:
        load = "probe.load(...) alone" if wanted == "processor" else f'probe.load(..., resize="{wanted}", tiles=False)'
        raise InvalidRecipe(
            f'{model!r} resizes images directly (resize="{actual}"), and the recipe has backbone.prepare="{prepare}". Open it with {load}, or '
            f'change the recipe: recipe.with_({{"backbone.prepare": "{actual}"}}).'
        )


def _check_backbone(model: probe.Probe) -> probe.Probe:
    """The loaded model, if it can ask questions and its image tokens lie on a known grid."""
    if model.processor is None:
        raise probe.errors.ProcessorNeeded(f"{model!r} has no processor to ask with. Open it with probe.load(model=..., processor=...).")
    if not model.backbone.has_grid:
        reason = model.backbone.no_grid_reason or "its backbone does not say where they lie"
        raise InvalidRecipe(
            f"{model.family} cannot be segmented with: points and boxes need image tokens that are cells of the image, and {reason}. "
            f"Families that can, for example: {WITH_GRIDS}; docs/zoo.md lists them all."
        )
    return model
