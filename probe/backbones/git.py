"""GIT: the tower's states, class token included, come before the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from probe.backbones.base import Backbone
from probe.backbones.registry import register
from probe.backbones.shared.cross_attention import NO_INTERFACE, POST_NORM, POST_NORM_PARTS

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("git")
class Git(Backbone):
    """The model itself puts the image before `input_ids`, which hold no image token."""

    part_paths: ClassVar[Mapping[str, str]] = POST_NORM_PARTS
    sum_reason = POST_NORM
    unreadable: ClassVar[Mapping[str, str]] = NO_INTERFACE

    def leading(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> int:
        pixels = inputs["pixel_values"]
        frames = pixels.shape[1] if pixels.ndim == 5 else 1
        patch = model.config.vision_config.patch_size
        return int(frames * ((pixels.shape[-2] // patch) * (pixels.shape[-1] // patch) + 1))
