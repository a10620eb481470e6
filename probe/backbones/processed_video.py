"""One video of an encoded prompt, as `Backbone.video_layout` gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from transformers import BaseVideoProcessor, PreTrainedModel, ProcessorMixin


@dataclass(frozen=True, eq=False)
class ProcessedVideo:
    """A video, and what the checkpoint's own processor returned for the prompt that holds it.

    Attributes:
        model, processor: the Hugging Face objects.
        size: (height, width) of its frames, in pixels.
        frames: how many it has.
        inputs: the processor's output for the whole prompt.
        index: which of the prompt's videos this is, from 0.

    Example:
        >>> video = probe.backbones.ProcessedVideo(None, None, (480, 640), 8, {"video_grid_thw": torch.tensor([[4, 30, 40]])}, index=0)
        >>> video.inputs["video_grid_thw"][video.index].tolist()
        [4, 30, 40]
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    size: tuple[int, int]
    frames: int
    inputs: Mapping[str, Tensor]
    index: int

    def patches(self, patch: int, pooled: int = 1) -> tuple[int, int]:
        """Cells down and across a frame of `pixel_values_videos`: whole squares of `pooled` x `pooled` patches of so many pixels."""
        height, width = self.inputs["pixel_values_videos"].shape[-2:]
        return int(height) // patch // pooled, int(width) // patch // pooled

    @property
    def video_processor(self) -> BaseVideoProcessor:
        """The part of the processor that prepares videos."""
        return self.processor.video_processor
