"""InternVL: tiles by the image's aspect ratio, then the base view; patches are shuffled into fewer, wider tokens."""

from __future__ import annotations

from probe.backbones.base import SHARING
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.processed_video import ProcessedVideo
from probe.backbones.registry import register
from probe.backbones.shared.square_layout import square_grid
from probe.backbones.shared.tiled_layout import TiledLayout
from probe.tokens.video import VideoLayout


@register("internvl", "qianfan_ocr")
class InternVL(TiledLayout):
    """The tokens of a tile stay row by row."""

    prefix = SHARING

    def canvas(self, image: ProcessedImage) -> tuple[int, int]:
        # Only the processor itself merges the defaults of both processors, which say whether it cuts tiles at all.
        (tiles,) = image.processor._get_num_multimodal_tokens(image_sizes=[image.size])["num_image_patches"]
        if tiles == 1:
            return 1, 1
        images = image.image_processor
        return self.best_canvas(image, images.min_patches, images.max_patches)

    def video_layout(self, video: ProcessedVideo) -> VideoLayout:
        """Each frame is one tile; texts of other tokens name them."""
        side = round(video.processor.image_seq_length**0.5)
        return VideoLayout.repeated(square_grid(side, video.size, name="video"), video.frames)

    def best_canvas(self, image: ProcessedImage, fewest: int, most: int) -> tuple[int, int]:
        """The canvas, of `fewest` to `most` tiles, that the image processor chooses: tiles down and across."""
        size = image.image_processor.size
        cols, rows = self.optimal_canvas(image.size, (size["height"], size["width"]), fewest, most)
        return rows, cols

    @staticmethod
    def optimal_canvas(image_size: tuple[int, int], tile_size: tuple[int, int], fewest: int, most: int) -> tuple[int, int]:
        """The image processor's own choice: tiles across and down."""
        from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

        return get_optimal_tiled_canvas(image_size, tile_size, fewest, most)
