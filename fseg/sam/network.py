"""Any SAM network behind one interface: an image and prompts in pixels of the original in, logits of the original size out.

Every network gets the same pixels and the same coordinates, prepared here, so that the same weights give the same masks in segment-anything
and in transformers. The image encoder may run in half precision; prompts and decoder run in float32, because a bfloat16 coordinate near
1000 is off by up to 2 pixels.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as functional
from jaxtyping import Float, Int32
from PIL import Image
from torch import Tensor, nn

from fseg.sam.base import SamMask, SamPrompt

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)

_MOST_SHARED = 16
"""The most prompts in one call of the decoder: enough to fill an accelerator, while ViT-H's upscaled features stay below 1 GB."""

Point = tuple[float, float]

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class ImageEmbedding:
    """An encoded image.

    Attributes:
        features: float32 (1, channel, row, col), on the model's device.
        size: (height, width) of the original image.
        scaled_size: (height, width) of the part of the model's square input that the image fills; the rest is padding.
    """

    features: Float[Tensor, "1 channel row col"]
    size: tuple[int, int]
    scaled_size: tuple[int, int]


class Network(Protocol):
    """The forward passes of a SAM implementation. Such a class in `PromptableSam` makes a new SAM usable."""

    @property
    def side(self) -> int:
        """Side of the square input, in pixels."""

    @property
    def device(self) -> torch.device:
        """Where the inputs have to be."""

    def encode(self, pixels: Float[Tensor, "1 3 side side"]) -> Float[Tensor, "1 channel row col"]:
        """Normalised and padded pixels -> float32 features."""

    def decode(
        self,
        features: Float[Tensor, "1 channel row col"],
        points: Float[Tensor, "prompt point 2"] | None,
        labels: Int32[Tensor, "prompt point"] | None,
        boxes: Float[Tensor, "prompt 4"] | None,
        alternatives: bool,
        masks: Float[Tensor, "1 1 low_row low_col"] | None = None,
    ) -> tuple[Float[Tensor, "prompt mask low_row low_col"], Float[Tensor, "prompt mask"]]:
        """Points and boxes in pixels of the input -> float32 logits of the masks at low resolution, and predicted IoUs.

        Args:
            labels: of each point, 1 "on the object" or 0 "not on it".
            masks: for a single prompt, the logits of a mask to be refined; given only where `sam.refine` asks for it.
        """


@dataclass(frozen=True)
class PromptableSam:
    """A network as a `Promptable`: an image and prompts in pixels of the original in, logits of the original size out."""

    network: Network

    @torch.no_grad()
    def embed(self, image: Image.Image) -> ImageEmbedding:
        """Encode an RGB image, as `SamPredictor.set_image` does."""
        pixels, scaled_size = to_input(image, self.network.side)
        return ImageEmbedding(self.network.encode(pixels.to(self.network.device)), (image.height, image.width), scaled_size)

    @torch.no_grad()
    def masks(self, embedding: ImageEmbedding, prompts: Sequence[SamPrompt]) -> list[SamMask]:
        """One mask for each prompt, in order: what `SamPredictor.predict` returns for each prompt alone.

        Prompts with equally many points, all with a box or all without, share a call of the decoder. Prompts are never padded to a common
        number of points: a padding point changes the logits.

        Raises:
            InvalidPrompt: see `SamPrompt.check`.
        """
        return in_shared_calls(prompts, embedding.size, lambda group: self._one_call(embedding, group))

    def _one_call(self, embedding: ImageEmbedding, prompts: Sequence[SamPrompt]) -> list[SamMask]:
        coordinates, labels = labelled_points(prompts, self.network.device)
        points = to_input_frame(coordinates, embedding).to(self.network.device) if coordinates else None
        boxes = None if prompts[0].box is None else to_input_frame([prompt.box for prompt in prompts], embedding).to(self.network.device)
        logits, scores = self.network.decode(embedding.features, points, labels, boxes, prompts[0].wants_alternatives)
        if prompts[0].refine:
            logits, scores = self.network.decode(embedding.features, points, labels, boxes, False, best_mask(logits, scores))
        best = scores.argmax(dim=1)
        return [
            SamMask(to_original_size(low[index], embedding, self.network.side).cpu(), float(score[index]))
            for low, score, index in zip(logits, scores, best, strict=True)
        ]


def best_mask(logits: Float[Tensor, "1 mask low_row low_col"], scores: Float[Tensor, "1 mask"]) -> Float[Tensor, "1 1 low_row low_col"]:
    """The logits of the alternative of the highest predicted IoU, of a single prompt."""
    return logits[:, scores[0].argmax()][:, None]


def in_shared_calls(
    prompts: Sequence[SamPrompt], size: tuple[int, int], call: Callable[[Sequence[SamPrompt]], list[SamMask]]
) -> list[SamMask]:
    """The masks of all prompts, in order, by one call for each group that can share it.

    Raises:
        InvalidPrompt: a prompt does not lie inside an image of this (height, width); before the first call.
    """
    for prompt in prompts:
        prompt.check(size)
    masks: dict[int, SamMask] = {}
    for indexes in shareable(prompts):
        masks |= zip(indexes, call([prompts[index] for index in indexes]), strict=True)
    return [masks[index] for index in range(len(prompts))]


def shareable(prompts: Sequence[SamPrompt]) -> list[list[int]]:
    """Groups of prompts that share a call, by index: equally many points of either kind, a box or none, alternatives or none; at most 16.

    A prompt to be refined has a call of its own: transformers' decoders add one mask to the image's features, for all prompts of a call.
    """
    alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        alone = index if prompt.refine else None
        alike[len(prompt.points), len(prompt.negatives), prompt.box is None, prompt.wants_alternatives, alone].append(index)
    return [indexes[start : start + _MOST_SHARED] for indexes in alike.values() for start in range(0, len(indexes), _MOST_SHARED)]


def to_input(image: Image.Image, side: int) -> tuple[Float[Tensor, "1 3 side side"], tuple[int, int]]:
    """Normalised pixels of the image, its longer side resized to `side`, padded right and below; and its resized (height, width).

    Equals `SamPredictor`'s `ResizeLongestSide` (Pillow, bilinear) and `Sam.preprocess`; a side that would round to 0 pixels keeps one.
    """
    scale = side / max(image.size)
    width, height = (max(1, int(length * scale + 0.5)) for length in image.size)
    resized = np.array(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    pixels = (torch.from_numpy(resized).permute(2, 0, 1).float() - mean) / std
    return functional.pad(pixels, (0, side - width, 0, side - height))[None], (height, width)


def to_input_frame(coordinates: Sequence[object], embedding: ImageEmbedding) -> Float[Tensor, "prompt ..."]:
    """Alternating x and y, from pixels of the original image to pixels of the model's input: `ResizeLongestSide.apply_coords`."""
    (height, width), (scaled_height, scaled_width) = embedding.size, embedding.scaled_size
    pixels = torch.tensor(coordinates, dtype=torch.float64)
    scale = torch.tensor([scaled_width / width, scaled_height / height], dtype=torch.float64)
    return (pixels.unflatten(-1, (-1, 2)) * scale).flatten(-2).float()


def to_original_size(logits: Float[Tensor, "low_row low_col"], embedding: ImageEmbedding, side: int) -> Float[Tensor, "height width"]:
    """Bilinear to the model's input, the padding cut off, bilinear to the original: `Sam.postprocess_masks`."""
    height, width = embedding.scaled_size
    square = functional.interpolate(logits[None, None], (side, side), mode="bilinear", align_corners=False)
    return functional.interpolate(square[..., :height, :width], embedding.size, mode="bilinear", align_corners=False)[0, 0]


def placement(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """The device and dtype of a module's parameters."""
    first = next(module.parameters())
    return first.device, first.dtype


def in_float32(module: Module) -> Module:
    """The module itself, or a float32 copy of one in half precision: the caller's model is not changed."""
    return module if placement(module)[1] == torch.float32 else copy.deepcopy(module).float()


def labelled_points(prompts: Sequence[SamPrompt], device: torch.device) -> tuple[list[list[Point]], Int32[Tensor, "prompt point"] | None]:
    """The points of prompts that share a call, in pixels of the original, and SAM's labels: 1 "on the object", then 0 "not on it".

    Returns:
        an empty list and None for prompts without points.
    """
    first = prompts[0]
    if not (first.points or first.negatives):
        return [], None
    labels = torch.tensor([1] * len(first.points) + [0] * len(first.negatives), dtype=torch.int, device=device)
    points = [[(float(x), float(y)) for x, y in (*prompt.points, *prompt.negatives)] for prompt in prompts]
    return points, labels.repeat(len(prompts), 1)
