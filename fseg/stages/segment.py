"""The last model of the chain: from a class's points and box to its mask (Eq. 13)."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import probe._torchvision  # noqa: F401  torchvision has to be importable before segment_anything asks for it

# isort: split

import torch
from jaxtyping import Float
from PIL import Image
from segment_anything import modeling
from torch import Tensor, nn
from transformers import SamModel

from fseg.checkpoints import sam_place
from fseg.checks import one_of, text
from fseg.errors import InvalidSam
from fseg.evidence import Evidence
from fseg.sam.base import MULTIMASKS, Multimask, Promptable, SamMask, SamPrompt
from fseg.sam.folder import from_transformers
from fseg.sam.network import Network, PromptableSam, SegmentAnythingNetwork, TransformersNetwork
from fseg.sam.weights import build_sam, read_weights
from probe.errors import NotFinite
from probe.tracing.finite import is_finite

__all__ = ["Promptable", "Sam", "SamMask", "SamPrompt", "load_sam"]

_WEIGHT_FILES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class Sam:
    """M_sam = SAM(image | points, box), one prompt a class (Eq. 13).

    Attributes:
        checkpoint: what `load_sam` takes by name: a hub id, a folder, a file, or "glyphs".
        multimask: "auto" takes the single mask where a box or two or more points are given, and otherwise the best of the alternatives by
            predicted IoU; "off" always the first, "on" always the second.
    """

    checkpoint: str = "facebook/sam-vit-huge"
    multimask: Multimask = "auto"

    def __post_init__(self) -> None:
        text("sam.checkpoint", self.checkpoint)
        one_of("sam.multimask", self.multimask, MULTIMASKS)

    def __call__(
        self, backend: Promptable, image: Image.Image, evidence: Sequence[Evidence]
    ) -> tuple[list[Evidence], list[Float[Tensor, "height width"] | None]]:
        """Segment each class that has a point or a box; the image is encoded once, and not at all where no class has either.

        Args:
            backend: from `load_sam`, or any `Promptable`.
            image: RGB, the original that points and boxes are pixels of.
            evidence: one entry a class, with `points` and `box`.

        Returns:
            The evidence in the same order, with `score`, the IoU that SAM predicts for its mask; and beside each entry float32 logits of
            the image's size (mask: above 0), or None for a class without a prompt.

        Raises:
            InvalidPrompt: a point or a box lies outside the image.
            NotFinite: a mask or its score is not finite.
        """
        prompted = [index for index, one in enumerate(evidence) if one.points or one.box is not None]
        prompts = [SamPrompt(evidence[index].points, evidence[index].box, self.multimask) for index in prompted]
        masks = dict(zip(prompted, backend.masks(backend.embed(image), prompts), strict=True)) if prompts else {}
        for index, mask in masks.items():
            if not (math.isfinite(mask.score) and is_finite(mask.logits)):
                raise NotFinite(
                    f"SAM computed NaN or infinity for {evidence[index].name!r}, which is no mask. Load it in float32, or other weights."
                )
        scored = [replace(one, score=masks[index].score) if index in masks else one for index, one in enumerate(evidence)]
        return scored, [masks[index].logits if index in masks else None for index in range(len(evidence))]


def load_sam(
    checkpoint: str | os.PathLike[str] | nn.Module | Promptable,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Promptable:
    """A SAM from wherever it is.

    Args:
        checkpoint: a `.pth`, `.pt` or `.safetensors` file of segment-anything's weights, of any size; a local folder or hub id of
            transformers' `SamModel`; "glyphs", the small one that comes with the package; or an object: a `segment_anything` Sam, a
            `SamModel`, or anything `Promptable`, all of which stay on the device and in the dtype that they are in.
        device: where to put a model that is loaded here. None: the CPU.
        dtype: of its image encoder; all else is float32. None: float32.

    Raises:
        InvalidSam: nothing is there, or it does not read as a SAM; the message says what was found.
    """
    if isinstance(checkpoint, (str, os.PathLike)):
        return PromptableSam(_network(checkpoint, device, dtype))
    if isinstance(checkpoint, modeling.Sam):
        return PromptableSam(SegmentAnythingNetwork.of(checkpoint))
    if isinstance(checkpoint, SamModel):
        return PromptableSam(TransformersNetwork.of(checkpoint))
    if isinstance(checkpoint, Promptable):
        return checkpoint
    raise InvalidSam(
        f"A {type(checkpoint).__module__}.{type(checkpoint).__qualname__} was given as the SAM. Give a file, a folder, a hub id, "
        "a segment_anything Sam, a transformers SamModel, or an object with the methods embed and masks."
    )


def _network(checkpoint: str | os.PathLike[str], device: str | torch.device | None, dtype: torch.dtype | None) -> Network:
    """The SAM of a file, a folder, a hub id, or of the package."""
    path = Path(sam_place(checkpoint)).expanduser()
    if os.path.isfile(path):  # as Path.is_file, but for a name that is too long for one
        weights = read_weights(path)
        try:
            built = build_sam(weights).to(device)
        except InvalidSam as error:
            raise InvalidSam(f"{path} is no SAM. {error}") from error
        built.image_encoder.to(dtype)
        return SegmentAnythingNetwork.of(built)
    if (os.fspath(checkpoint) and os.path.isdir(path)) or (isinstance(checkpoint, str) and _is_hub_id(checkpoint)):
        loaded = from_transformers(os.fspath(path)).to(device)
        loaded.vision_encoder.to(dtype)
        return TransformersNetwork.of(loaded)
    raise InvalidSam(
        f"The SAM {os.fspath(checkpoint)!r} was asked for, and no such file or folder is here. Give the path of a "
        f"{', '.join(_WEIGHT_FILES)} file or of a folder with a config.json, a hub id such as facebook/sam-vit-huge, "
        'or "glyphs" for the small SAM of the package.'
    )


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) is not None and not name.endswith(_WEIGHT_FILES)
