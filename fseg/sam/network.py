"""SAM, segment-anything's and transformers', behind one door: pixels and prompts of the original image in, logits of its size out.

Both see the same pixels and the same coordinates, prepared here, so the same weights give the same masks in either. The image encoder
may run in half precision; prompts and decoder run in float32, because a bfloat16 coordinate near 1000 is off by up to 2 pixels.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import probe._torchvision  # noqa: F401  torchvision has to be importable before segment_anything asks for it

# isort: split

import numpy as np
import torch
import torch.nn.functional as functional
from jaxtyping import Float
from PIL import Image
from segment_anything import modeling
from torch import Tensor, nn
from transformers import SamModel

from fseg.sam.base import SamMask, SamPrompt
from fseg.sam.weights import PIXEL_MEAN, PIXEL_STD

# Prompts that share one call of the decoder: enough to fill an accelerator, while ViT-H's upscaled features stay below 1 GB.
_MOST_SHARED = 16

_ModuleT = TypeVar("_ModuleT", bound=nn.Module)


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
    """The forward passes of a SAM, whoever wrote it."""

    @property
    def side(self) -> int:
        """Side of the square input, in pixels."""

    @property
    def device(self) -> torch.device: ...

    def encode(self, pixels: Float[Tensor, "1 3 side side"]) -> Float[Tensor, "1 channel row col"]:
        """Normalised and padded pixels -> float32 features."""

    def decode(
        self,
        features: Float[Tensor, "1 channel row col"],
        points: Float[Tensor, "prompt point 2"] | None,
        boxes: Float[Tensor, "prompt 4"] | None,
        alternatives: bool,
    ) -> tuple[Float[Tensor, "prompt mask low_row low_col"], Float[Tensor, "prompt mask"]]:
        """Positive points and boxes in pixels of the input -> float32 logits of the masks at low resolution, and predicted IoUs."""


@dataclass(frozen=True)
class SegmentAnythingNetwork:
    """`segment_anything.modeling.Sam`."""

    encoder: Any
    prompt_encoder: Any
    decoder: Any

    @classmethod
    def of(cls, model: modeling.Sam) -> SegmentAnythingNetwork:
        return cls(model.image_encoder, _in_float32(model.prompt_encoder), _in_float32(model.mask_decoder))

    @property
    def side(self) -> int:
        return int(self.encoder.img_size)

    @property
    def device(self) -> torch.device:
        return _placement(self.encoder)[0]

    def encode(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.encoder(pixels.to(_placement(self.encoder)[1]))
        return features.float()

    def decode(self, features: Tensor, points: Tensor | None, boxes: Tensor | None, alternatives: bool) -> tuple[Tensor, Tensor]:
        labelled = None if points is None else (points, _positive(points))
        sparse, dense = self.prompt_encoder(points=labelled, boxes=boxes, masks=None)
        logits, scores = self.decoder(
            image_embeddings=features,
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=alternatives,
        )
        return logits, scores


@dataclass(frozen=True)
class TransformersNetwork:
    """`transformers.SamModel`."""

    encoder: Any
    prompt_encoder: Any
    decoder: Any

    @classmethod
    def of(cls, model: SamModel) -> TransformersNetwork:
        return cls(model.vision_encoder, _in_float32(model.prompt_encoder), _in_float32(model.mask_decoder))

    @property
    def side(self) -> int:
        return int(self.encoder.image_size)

    @property
    def device(self) -> torch.device:
        return _placement(self.encoder)[0]

    def encode(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.encoder(pixels.to(_placement(self.encoder)[1])).last_hidden_state
        return features.float()

    def decode(self, features: Tensor, points: Tensor | None, boxes: Tensor | None, alternatives: bool) -> tuple[Tensor, Tensor]:
        sparse, dense = self.prompt_encoder(
            input_points=None if points is None else points[None],
            input_labels=None if points is None else _positive(points)[None],
            input_boxes=None if boxes is None else boxes[None],
            input_masks=None,
        )
        logits, scores = self.decoder(
            image_embeddings=features,
            image_positional_embeddings=self._positions(features.shape[-1]),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=alternatives,
        )
        return logits[0], scores[0]

    def _positions(self, grid: int) -> Float[Tensor, "1 channel row col"]:
        """`SamModel.get_image_wide_positional_embeddings`, from the float32 copy of the embedding."""
        centres = (torch.arange(grid, device=self.device) + 0.5) / grid
        positions: Tensor = self.prompt_encoder.shared_embedding(torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1))
        return positions.permute(2, 0, 1)[None]


@dataclass(frozen=True)
class PromptableSam:
    """A SAM behind the `Promptable` door: pixels and prompts of the original image in, logits of the original size out."""

    network: Network

    @torch.no_grad()
    def embed(self, image: Image.Image) -> ImageEmbedding:
        """Encode an RGB image, as `SamPredictor.set_image` does."""
        pixels, scaled_size = to_input(image, self.network.side)
        return ImageEmbedding(self.network.encode(pixels.to(self.network.device)), (image.height, image.width), scaled_size)

    @torch.no_grad()
    def masks(self, embedding: ImageEmbedding, prompts: Sequence[SamPrompt]) -> list[SamMask]:
        """One mask a prompt, in order, as `SamPredictor.predict` gives it for a prompt of its own.

        Prompts with as many points, all with a box or all without, share a call of the decoder. None is ever padded to the length of
        another: a padding point changes the logits.

        Raises:
            InvalidPrompt: see `SamPrompt.check`.
        """
        for prompt in prompts:
            prompt.check(embedding.size)
        found: dict[int, SamMask] = {}
        for indexes in shareable(prompts):
            found |= zip(indexes, self._one_call(embedding, [prompts[index] for index in indexes]), strict=True)
        return [found[index] for index in range(len(prompts))]

    def _one_call(self, embedding: ImageEmbedding, prompts: Sequence[SamPrompt]) -> list[SamMask]:
        has_points, has_box = bool(prompts[0].points), prompts[0].box is not None
        points = to_input_frame([prompt.points for prompt in prompts], embedding).to(self.network.device) if has_points else None
        boxes = to_input_frame([prompt.box for prompt in prompts], embedding).to(self.network.device) if has_box else None
        logits, scores = self.network.decode(embedding.features, points, boxes, prompts[0].alternatives)
        best = scores.argmax(dim=1)
        return [
            SamMask(to_original_size(low[index], embedding, self.network.side).cpu(), float(score[index]))
            for low, score, index in zip(logits, scores, best, strict=True)
        ]


def shareable(prompts: Sequence[SamPrompt]) -> list[list[int]]:
    """Indexes of prompts that can share a call: as many points, a box or none, alternatives or none; at most 16 a call."""
    alike: dict[tuple[int, bool, bool], list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        alike[len(prompt.points), prompt.box is None, prompt.alternatives].append(index)
    return [indexes[start : start + _MOST_SHARED] for indexes in alike.values() for start in range(0, len(indexes), _MOST_SHARED)]


def to_input(image: Image.Image, side: int) -> tuple[Float[Tensor, "1 3 side side"], tuple[int, int]]:
    """Normalised pixels of the image, its longer side resized to `side`, padded right and below; and its resized (height, width).

    Equals `SamPredictor`'s `ResizeLongestSide` (Pillow, bilinear) and `Sam.preprocess`; a side that would round to no pixel keeps one.
    """
    scale = side / max(image.size)
    width, height = (max(1, int(length * scale + 0.5)) for length in image.size)
    resized = np.array(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    pixels = (torch.from_numpy(resized).permute(2, 0, 1).float() - mean) / std
    return functional.pad(pixels, (0, side - width, 0, side - height))[None], (height, width)


def to_input_frame(coordinates: Sequence[Any], embedding: ImageEmbedding) -> Float[Tensor, "prompt ..."]:
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


def _placement(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    first = next(module.parameters())
    return first.device, first.dtype


def _in_float32(module: _ModuleT) -> _ModuleT:
    """The module itself, or a float32 copy of one in half precision: a model that was given to us is not changed."""
    return module if _placement(module)[1] == torch.float32 else copy.deepcopy(module).float()


def _positive(points: Float[Tensor, "prompt point 2"]) -> Tensor:
    """SAM's label 1, "on the object", for each point."""
    return torch.ones(points.shape[:2], dtype=torch.int, device=points.device)
