"""SAM as segment-anything's `Sam` class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# isort: split

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam
from torch import Tensor

from fseg.errors import InvalidSam
from fseg.sam.network import PIXEL_MEAN, PIXEL_STD, in_float32, placement
from fseg.sam.shapes import shape_of, skeleton
from fseg.sam.weights import ACCEPTED, check_finite, some

__all__ = ["Sam", "SegmentAnythingNetwork", "build_sam"]

RELEASED = ("vit_h", "vit_l", "vit_b")
"""Names in `sam_model_registry`."""

_RELEASED_POSITIONS = 64
"""Rows and columns of image positions of every released SAM: 1024 pixels in patches of 16."""


@dataclass(frozen=True)
class SegmentAnythingNetwork:
    """`segment_anything.modeling.Sam`."""

    encoder: ImageEncoderViT
    prompt_encoder: PromptEncoder
    decoder: MaskDecoder

    @classmethod
    def of(cls, model: Sam) -> SegmentAnythingNetwork:
        """The network of a loaded model."""
        return cls(model.image_encoder, in_float32(model.prompt_encoder), in_float32(model.mask_decoder))

    @property
    def side(self) -> int:
        return int(self.encoder.img_size)

    @property
    def device(self) -> torch.device:
        return placement(self.encoder)[0]

    def encode(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.encoder(pixels.to(placement(self.encoder)[1]))
        return features.float()

    def decode(
        self,
        features: Tensor,
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        alternatives: bool,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        labelled = None if points is None else (points, labels)
        sparse, dense = self.prompt_encoder(points=labelled, boxes=boxes, masks=masks)
        logits, scores = self.decoder(
            image_embeddings=features,
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=alternatives,
        )
        return logits, scores


def build_sam(state: Mapping[str, Tensor]) -> Sam:
    """segment-anything's `Sam` with these weights, in evaluation mode and without gradients.

    The released sizes come from `sam_model_registry`; any other architecture is read from the shapes of the tensors. The tensors become the
    parameters without a copy.

    Raises:
        InvalidSam: tensors are missing, left over, not finite, or have another shape than the rest of the weights implies.
    """
    with torch.device("meta"):  # no storage: the tensors of `state` take the place of the parameters
        model = _released(state) or _of_another_size(state)
    expected = model.state_dict()
    missing = [name for name in expected if name not in state]
    foreign = [name for name in state if name not in expected]
    misshapen = [f"{name} {tuple(state[name].shape)}" for name in expected if name in state and state[name].shape != expected[name].shape]
    faults = {"missing": missing, "not SAM's": foreign, "of another shape than the rest implies": misshapen}
    if any(faults.values()):
        reasons = "; ".join(f"{len(names)} {fault} ({some(names)})" for fault, names in faults.items() if names)
        raise InvalidSam(f"These {len(state)} tensors are not the weights of a segment-anything Sam: {reasons}. {ACCEPTED}")
    check_finite("The SAM", state)
    model.load_state_dict(dict(state), assign=True)
    # Two buffers that no file contains, and that therefore still have no storage.
    model.pixel_mean = torch.tensor(PIXEL_MEAN).view(-1, 1, 1)
    model.pixel_std = torch.tensor(PIXEL_STD).view(-1, 1, 1)
    return model.eval().requires_grad_(False)


def _released(state: Mapping[str, Tensor]) -> Sam | None:
    """The released model that these weights fit exactly, without weights; None if there is none."""
    positions = state.get("image_encoder.pos_embed")
    if positions is None or positions.shape[1:3] != (_RELEASED_POSITIONS, _RELEASED_POSITIONS):
        return None  # without building three large models to compare with
    shapes = {name: value.shape for name, value in state.items()}
    models = (sam_model_registry[name]() for name in RELEASED)
    return next((model for model in models if {name: value.shape for name, value in model.state_dict().items()} == shapes), None)


def _of_another_size(state: Mapping[str, Tensor]) -> Sam:
    shape = shape_of(state)
    try:
        return skeleton(shape)
    except (ValueError, RuntimeError, ArithmeticError, AssertionError) as error:  # the names fit, but no network has these shapes
        raise InvalidSam(f"No segment-anything Sam has these shapes: {error or type(error).__name__}. {ACCEPTED}") from error
