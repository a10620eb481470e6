"""The whole image as one square of image tokens, row by row."""

from __future__ import annotations

from probe.backbones.processed_image import ProcessedImage
from probe.backbones.shared.square_tower import SquareTower, covered_share, upper_left
from probe.tokens.layout import Box, Grid, ImageLayout, whole_box


class SquareLayout(SquareTower):
    """One image token for each patch of the tower, or for each square of patches that is pooled into one."""

    def layout(self, image: ProcessedImage) -> ImageLayout:
        side = image.tokens_per_side
        return ImageLayout((square_grid(side, image.size, covered=covered_share(image, side)),))


def square_grid(
    side: int, image_size: tuple[int, int], *, covered: float = 1.0, box: Box | None = None, name: str = "image", first: int = 0
) -> Grid:
    """A square of side x side image tokens, row by row, from token `first` on.

    Args:
        image_size: (height, width) of the original image.
        covered: the share of the tower's input that the tokens cover, from the upper left corner.
        box: what the tower's input shows of the image; None: all of it.
    """
    box = upper_left(box or whole_box(image_size), covered, covered)
    return Grid.whole(side, side, image_size, name=name, first=first, box=box)
