"""SAM 2 and the tracker of SAM 3, as transformers has them: the image is stretched to a square, its features have three levels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

# isort: split

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers import Sam2ImageProcessor, Sam2Model, Sam3ImageProcessor, Sam3TrackerModel

from fseg.sam.base import SamMask, SamPrompt
from fseg.sam.network import best_mask, in_float32, in_shared_calls, labelled_points, placement

__all__ = ["Sam2Model", "Sam3TrackerModel", "StretchedEmbedding", "StretchedSam"]


@dataclass(frozen=True)
class StretchedEmbedding:
    """An encoded image.

    Attributes:
        levels: float32 (1, channel, row, col), from fine to coarse: `get_image_embeddings(pixel_values)` of the model.
        size: (height, width) of the original image.
    """

    levels: tuple[Float[Tensor, "1 _ _ _"], ...]
    size: tuple[int, int]


@dataclass(frozen=True)
class StretchedSam:
    """`Sam2Model` or `Sam3TrackerModel` as a `Promptable`. As with SAM, the encoder may run in half precision, all else is float32."""

    encoder: nn.Module
    prompt_encoder: nn.Module
    decoder: nn.Module
    positional: nn.Module
    no_memory: Float[Tensor, "1 1 channel"]
    processor: Sam2ImageProcessor | Sam3ImageProcessor

    @classmethod
    def of(cls, model: Sam2Model | Sam3TrackerModel) -> StretchedSam:
        """The parts of a loaded model."""
        side = model.prompt_encoder.input_image_size
        processor = (Sam2ImageProcessor if isinstance(model, Sam2Model) else Sam3ImageProcessor)(size={"height": side, "width": side})
        return cls(
            model.vision_encoder,
            in_float32(model.prompt_encoder),
            in_float32(model.mask_decoder),
            copy.deepcopy(model.shared_image_embedding).float(),
            model.no_memory_embedding.float(),
            processor,
        )

    @property
    def side(self) -> int:
        """Side of the square input, in pixels."""
        return int(self.prompt_encoder.input_image_size)  # type: ignore[arg-type]  # a plain number on the module

    @torch.no_grad()
    def embed(self, image: Image.Image) -> StretchedEmbedding:
        """Encode an RGB image, stretched to the square as the model's image processor does."""
        device, dtype = placement(self.encoder)
        pixels = self.processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
        fine, middle, *coarse = (level.float() for level in self.encoder(pixels.to(device, dtype)).fpn_hidden_states)
        levels = [self.decoder.conv_s0(fine), self.decoder.conv_s1(middle), *coarse]  # type: ignore[operator]
        levels[-1] = levels[-1] + self.no_memory.view(1, -1, 1, 1)
        # The default neck of SAM 3 has a fourth level; transformers leaves it out, and the embedding just added to it.
        return StretchedEmbedding(tuple(levels[:3]), (image.height, image.width))

    @torch.no_grad()
    def masks(self, embedding: StretchedEmbedding, prompts: Sequence[SamPrompt]) -> list[SamMask]:
        """One mask for each prompt, in order: what the model's `forward` and `post_process_masks` return for each prompt alone.

        Prompts share calls of the decoder as those of `PromptableSam` do.

        Raises:
            InvalidPrompt: see `SamPrompt.check`.
        """
        return in_shared_calls(prompts, embedding.size, lambda group: self._one_call(embedding, group))

    def _one_call(self, embedding: StretchedEmbedding, prompts: Sequence[SamPrompt]) -> list[SamMask]:
        coordinates, labels = labelled_points(prompts, placement(self.encoder)[0])
        points = self._to_input(coordinates, embedding) if coordinates else None
        boxes = self._to_input([prompt.box for prompt in prompts], embedding) if prompts[0].box is not None else None
        logits, scores = self._decode(embedding, points, labels, boxes, prompts[0].wants_alternatives)
        if prompts[0].refine:
            logits, scores = self._decode(embedding, points, labels, boxes, False, best_mask(logits, scores))
        best = scores.argmax(dim=1)
        return [
            SamMask(_resized(low[index], embedding.size).cpu(), float(score[index]))
            for low, score, index in zip(logits, scores, best, strict=True)
        ]

    def _decode(
        self,
        embedding: StretchedEmbedding,
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        alternatives: bool,
        masks: Float[Tensor, "1 1 low_row low_col"] | None = None,
    ) -> tuple[Float[Tensor, "prompt mask low_row low_col"], Float[Tensor, "prompt mask"]]:
        sparse, dense = self.prompt_encoder(
            input_points=None if points is None else points[None],
            input_labels=None if labels is None else labels[None],
            input_boxes=None if boxes is None else boxes[None],
            input_masks=masks,
        )
        *fine, coarse = embedding.levels
        logits, scores, *_ = self.decoder(
            image_embeddings=coarse,
            image_positional_embeddings=self._positions(*coarse.shape[-2:]),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=alternatives,
            high_resolution_features=fine,
        )
        return logits[0], scores[0]

    def _to_input(self, coordinates: Sequence[object], embedding: StretchedEmbedding) -> Float[Tensor, "prompt ..."]:
        """Alternating x and y, from pixels of the original image to pixels of the square."""
        height, width = embedding.size
        scale = torch.tensor([self.side / width, self.side / height], dtype=torch.float64)
        pixels = torch.tensor(coordinates, dtype=torch.float64)
        return (pixels.unflatten(-1, (-1, 2)) * scale).flatten(-2).float().to(placement(self.encoder)[0])

    def _positions(self, rows: int, columns: int) -> Float[Tensor, "1 channel row col"]:
        """`get_image_wide_positional_embeddings` of the model."""
        device = placement(self.encoder)[0]
        y, x = ((torch.arange(count, device=device) + 0.5) / count for count in (rows, columns))
        positions: Tensor = self.positional(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1))
        return positions.permute(2, 0, 1)[None]


def _resized(logits: Float[Tensor, "low_row low_col"], size: tuple[int, int]) -> Float[Tensor, "height width"]:
    return functional.interpolate(logits[None, None], size, mode="bilinear", align_corners=False)[0, 0]
