"""Inkling 2: the inputs of attention and MLP are mixed from the states at earlier block boundaries."""

from collections.abc import Mapping
from typing import ClassVar

from probe.backbones.base import SHARING, Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.registry import register
from probe.tokens.layout import Grid, ImageLayout


@register("inkling2")
class Inkling2(Backbone):
    """One token for each square of pixels of the image as it is, padded to the right and below to whole squares."""

    prefix = SHARING
    counts_cached = True  # the relative positions of its attention

    part_paths: ClassVar[Mapping[str, str]] = {"attention": "post_attention_convolution", "mlp": "post_mlp_convolution"}
    sum_reason = "blocks at a boundary leave out the state before them, and the last state is mixed from those at the boundaries"

    def layout(self, image: ProcessedImage) -> ImageLayout:
        _, rows, cols = image.inputs["image_grid_thw"][image.index].tolist()
        cell = image.image_processor.size
        box = (0.0, 0.0, float(cols * cell["width"]), float(rows * cell["height"]))
        return ImageLayout((Grid.whole(rows, cols, image.size, box=box),))


_LOOPED = "its decoder runs some blocks several times, so that a block has several states. Read Projected(), Vision() or Logits() instead."
_OF_BLOCKS = ("Hidden", "Attention", "AttentionOutput", "MLPOutput", "HeadOutput", "Queries", "Keys", "Values")


@register("inkling2_loop")
class Inkling2Loop(Inkling2):
    """Some blocks are passed through several times."""

    prefix = ()
    no_prefix_reason = "its decoder runs some blocks several times, each time with keys of their own"
    unreadable: ClassVar[Mapping[str, str]] = dict.fromkeys(_OF_BLOCKS, _LOOPED)
