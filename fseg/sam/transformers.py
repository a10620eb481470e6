"""SAM as transformers' `SamModel`, and the checkpoints of all its SAMs: from a local folder or a hub id."""

from __future__ import annotations

from dataclasses import dataclass
from os.path import isdir
from pathlib import Path

# isort: split

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PretrainedConfig, Sam2Model, Sam3TrackerModel, SamModel
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder, SamVisionEncoder

from fseg.errors import InvalidSam
from fseg.sam.network import in_float32, placement
from fseg.sam.weights import check_finite
from probe.errors import LoadError
from probe.loading.checkpoint import check_complete
from probe.loading.files import check_folder, check_weights

__all__ = ["SamModel", "TransformersNetwork", "from_transformers"]

_CLASSES: dict[str, type[SamModel | Sam2Model | Sam3TrackerModel]] = {
    "sam": SamModel,
    "sam2": Sam2Model,
    "sam2_video": Sam2Model,  # what facebook/sam2.1-hiera-* name: the image model's tensors, and a memory that it leaves out
    "sam3_tracker": Sam3TrackerModel,
    "sam3_video": Sam3TrackerModel,  # what facebook/sam3 names: the tracker, and a detector that it leaves out
}


@dataclass(frozen=True)
class TransformersNetwork:
    """`transformers.SamModel`."""

    encoder: SamVisionEncoder
    prompt_encoder: SamPromptEncoder
    decoder: SamMaskDecoder

    @classmethod
    def of(cls, model: SamModel) -> TransformersNetwork:
        """The network of a loaded model."""
        return cls(model.vision_encoder, in_float32(model.prompt_encoder), in_float32(model.mask_decoder))

    @property
    def side(self) -> int:
        return int(self.encoder.image_size)

    @property
    def device(self) -> torch.device:
        return placement(self.encoder)[0]

    def encode(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.encoder(pixels.to(placement(self.encoder)[1])).last_hidden_state
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
        sparse, dense = self.prompt_encoder(
            input_points=None if points is None else points[None],
            input_labels=None if labels is None else labels[None],
            input_boxes=None if boxes is None else boxes[None],
            input_masks=masks,
        )
        logits, scores = self.decoder(
            image_embeddings=features,
            image_positional_embeddings=self.positions(features.shape[-1]),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=alternatives,
        )
        return logits[0], scores[0]

    def positions(self, grid: int) -> Float[Tensor, "1 channel row col"]:
        """`SamModel.get_image_wide_positional_embeddings`, from the float32 copy of the embedding."""
        centres = (torch.arange(grid, device=self.device) + 0.5) / grid
        positions: Tensor = self.prompt_encoder.shared_embedding(torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1))
        return positions.permute(2, 0, 1)[None]


def from_transformers(name: str) -> SamModel | Sam2Model | Sam3TrackerModel:
    """The SAM that the config.json names, by its class's `from_pretrained` in float32, complete and finite. Only safetensors are read: a pickle can run code.

    Args:
        name: a folder, whose files are checked before transformers reads them, or a hub id.

    Raises:
        InvalidSam: a file is missing, damaged or of another model, or the weights do not fit the configuration.
    """
    local = isdir(name)
    try:
        if local:
            check_folder(Path(name))
        kind = PretrainedConfig.get_config_dict(name, local_files_only=local)[0].get("model_type")
        if kind not in _CLASSES:
            raise InvalidSam(
                f"The config.json of {name} should name one of the model types {', '.join(map(repr, _CLASSES))}, and names {kind!r}. "
                "Give a SAM that takes points and boxes on one image, such as facebook/sam-vit-huge or facebook/sam2.1-hiera-large."
            )
        if local:
            check_weights(Path(name))
        model, loading_info = _CLASSES[kind].from_pretrained(
            name,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=local,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported in the loading info, and refused by check_complete
        )
        check_complete(name, loading_info)
    except InvalidSam:
        raise
    except LoadError as error:
        raise InvalidSam(f"{name} is no SAM. {error}") from error
    except Exception as error:  # transformers can fail in any way on a damaged configuration
        raise _not_loaded(name, local, error) from error
    check_finite(name, {**dict(model.named_parameters()), **dict(model.named_buffers())})
    return model.eval().requires_grad_(False)


def _not_loaded(name: str, local: bool, error: Exception) -> InvalidSam:
    reason = str(error).strip().partition("\n")[0].rstrip(" .:") or type(error).__name__
    if local:
        return InvalidSam(f"No SAM could be loaded from the folder {name!r}: {reason}. Check its config.json, or save the model again.")
    return InvalidSam(
        f"No SAM could be loaded from {name!r}: {reason}. There is no such folder here, so it was looked for on the hub. Give a folder, a "
        ".pth file of segment-anything, or a hub id while the hub can be reached (facebook/sam-vit-huge)."
    )
