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
            transformers `SamModel`; "glyphs", the small SAM of this package; or an object: a `segment_anything` Sam, a `SamModel`, or a
            `Promptable`, which keep their device and dtype.
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
        return PromptableSam(_network(checkpoint, device, dtype))
    if isinstance(checkpoint, Promptable):
        return checkpoint
    if isinstance(checkpoint, nn.Module) and (network := _network_of(checkpoint)) is not None:
        return PromptableSam(network)
    raise InvalidSam(
        f"A {type(checkpoint).__module__}.{type(checkpoint).__qualname__} was given as the SAM. Give a file, a folder, a hub id, "
        "a segment_anything Sam, a transformers SamModel, or an object with the methods embed and masks."
    )


# fseg.sam.segment_anything and fseg.sam.transformers import what they are named after: they are imported when a SAM is loaded.


def _network_of(model: nn.Module) -> Network | None:
    """The network of a loaded model; None if it is not a SAM."""
    from fseg.sam.segment_anything import Sam, SegmentAnythingNetwork
    from fseg.sam.transformers import SamModel, TransformersNetwork

    if isinstance(model, Sam):
        return SegmentAnythingNetwork.of(model)
    return TransformersNetwork.of(model) if isinstance(model, SamModel) else None


def _network(checkpoint: str | os.PathLike[str], device: str | torch.device | None, dtype: torch.dtype | None) -> Network:
    """The SAM of a file, a folder, a hub id, or of the package."""
    path = Path(sam_path(checkpoint)).expanduser()
    if os.path.isfile(path):  # False for a name that is too long for a file, where Path.is_file raises
        return _from_file(path, device, dtype)
    if (os.fspath(checkpoint) and os.path.isdir(path)) or (isinstance(checkpoint, str) and _is_hub_id(checkpoint)):
        from fseg.sam.transformers import TransformersNetwork, from_transformers

        loaded = from_transformers(os.fspath(path)).to(device)
        loaded.vision_encoder.to(dtype)
        return TransformersNetwork.of(loaded)
    raise InvalidSam(
        f"The SAM {os.fspath(checkpoint)!r} was asked for, and no such file or folder is here. Give the path of a "
        f"{', '.join(_WEIGHT_FILES)} file or of a folder with a config.json, a hub id such as facebook/sam-vit-huge, "
        'or "glyphs" for the small SAM of the package.'
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
