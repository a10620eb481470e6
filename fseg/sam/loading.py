"""A SAM from a file, a folder, a hub id, the package, or a loaded object."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from torch import nn

from fseg.checkpoints import sam_path
from fseg.errors import InvalidSam
from fseg.sam.base import AnySam, Promptable
from fseg.sam.network import Network, PromptableSam

_WEIGHT_FILES = (".pth", ".pt", ".safetensors")


def load_sam(
    checkpoint: str | os.PathLike[str] | nn.Module | AnySam,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> AnySam:
    """A SAM by name, or a loaded one.

    Args:
        checkpoint: a `.pth`, `.pt` or `.safetensors` file of segment-anything weights, of any size; a local folder or hub id of a
            transformers SAM, SAM 2 or SAM 3, told apart by the model type in its config.json; "glyphs" or "stickers", the small SAMs of this
            package; or an object: a `segment_anything` Sam, a `SamModel`, `Sam2Model` or `Sam3TrackerModel`, or a `Promptable`, which keep
            their device and dtype.
        device: where to put a model that is loaded here. None: the CPU.
        dtype: of its image encoder; all else is float32. None: float32.

    Raises:
        InvalidSam: nothing is there, or it is not a SAM; the message says what is there.

    >>> from fseg.sam.base import SamPrompt
    >>> from PIL import Image
    >>> sam = load_sam("glyphs")
    >>> (mask,) = sam.masks(sam.embed(Image.new("RGB", (60, 40))), [SamPrompt(points=((30, 20),))])
    >>> mask.logits.shape
    torch.Size([40, 60])
    """
    if isinstance(checkpoint, (str, os.PathLike)):
        return _loaded(checkpoint, device, dtype)
    if isinstance(checkpoint, Promptable):
        return checkpoint
    if isinstance(checkpoint, nn.Module) and (sam := _promptable(checkpoint)) is not None:
        return sam
    raise InvalidSam(
        f"A {type(checkpoint).__module__}.{type(checkpoint).__qualname__} was given as the SAM. Give a file, a folder, a hub id, "
        "a segment_anything Sam, a transformers SamModel, Sam2Model or Sam3TrackerModel (the image models, not those of video), "
        "or an object with the methods embed and masks."
    )


# What imports segment-anything or transformers is imported when a SAM is loaded.


def _promptable(model: nn.Module) -> AnySam | None:
    """A loaded model as a `Promptable`; None if it is not a SAM."""
    from fseg.sam.segment_anything import Sam, SegmentAnythingNetwork
    from fseg.sam.stretched import Sam2Model, Sam3TrackerModel, StretchedSam
    from fseg.sam.transformers import SamModel, TransformersNetwork

    if isinstance(model, Sam):
        return PromptableSam(SegmentAnythingNetwork.of(model))
    if isinstance(model, (Sam2Model, Sam3TrackerModel)):
        return StretchedSam.of(model)
    return PromptableSam(TransformersNetwork.of(model)) if isinstance(model, SamModel) else None


def _loaded(checkpoint: str | os.PathLike[str], device: str | torch.device | None, dtype: torch.dtype | None) -> AnySam:
    """The SAM of a file, a folder, a hub id, or of the package."""
    path = Path(sam_path(checkpoint)).expanduser()
    if os.path.isfile(path):  # False for a name that is too long for a file, where Path.is_file raises
        return PromptableSam(_from_file(path, device, dtype))
    if (os.fspath(checkpoint) and os.path.isdir(path)) or (isinstance(checkpoint, str) and _is_hub_id(checkpoint)):
        from fseg.sam.transformers import from_transformers

        loaded = from_transformers(os.fspath(path)).to(device)
        loaded.vision_encoder.to(dtype)
        return load_sam(loaded)
    raise InvalidSam(
        f"The SAM {os.fspath(checkpoint)!r} was asked for, and no such file or folder is here. Give the path of a "
        f"{', '.join(_WEIGHT_FILES)} file or of a folder with a config.json, a hub id such as facebook/sam-vit-huge, "
        'or "glyphs" or "stickers" for a small SAM of the package.'
    )


def _from_file(path: Path, device: str | torch.device | None, dtype: torch.dtype | None) -> Network:
    from fseg.sam.segment_anything import SegmentAnythingNetwork, build_sam
    from fseg.sam.weights import read_weights

    weights = read_weights(path)
    try:
        built = build_sam(weights).to(device)
    except InvalidSam as error:
        raise InvalidSam(f"{path} is no SAM. {error}") from error
    built.image_encoder.to(dtype)
    return SegmentAnythingNetwork.of(built)


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) is not None and not name.endswith(_WEIGHT_FILES)
