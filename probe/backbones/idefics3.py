"""Idefics 3 and SmolVLM: as many tiles as the resized image fills, between them tokens that name each tile's row and column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from probe.backbones.base import SHARING
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.processed_video import ProcessedVideo
from probe.backbones.registry import register
from probe.backbones.shared.square_layout import square_grid
from probe.backbones.shared.tiled_layout import TiledLayout
from probe.errors import ImageError
from probe.tokens.video import VideoLayout

if TYPE_CHECKING:
    from PIL import Image
    from transformers import ProcessorMixin

    from probe.inputs.videos import Video


@register("idefics3")
class Idefics3(TiledLayout):
    """Tiles, then the base view."""

    prefix = SHARING

    def canvas(self, image: ProcessedImage) -> tuple[int, int]:
        _, rows, cols = image.image_processor.get_number_of_image_patches(*image.size, {})
        return rows, cols


@register("smolvlm")
class SmolVLM(Idefics3):
    """A video's frames are stretched to one tile each; texts of other tokens say when they were."""

    def processor_arguments(
        self, processor: ProcessorMixin, images: Sequence[Image.Image], videos: Sequence[Video], prompt: str
    ) -> dict[str, object]:
        if images and videos:
            raise ImageError("smolvlm's processor returns frames in the place of images, so a prompt has either. Encode them apart.")
        return super().processor_arguments(processor, images, videos, prompt)

    def video_layout(self, video: ProcessedVideo) -> VideoLayout:
        side = round(video.processor.image_seq_len**0.5)
        return VideoLayout.repeated(square_grid(side, video.size, name="video"), video.frames)
