"""Where the tokens of a sequence's images and videos lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from probe.errors import GridUnknown, SpanNotFound
from probe.tokens.layout import ImageLayout
from probe.tokens.regions import Region
from probe.tokens.span import Span
from probe.tokens.video import VideoLayout


class Placed:
    """What a `TokenMap` knows of its images and videos."""

    images: tuple[tuple[int, ...], ...]
    layouts: tuple[ImageLayout | None, ...]
    videos: tuple[tuple[int, ...], ...]
    video_layouts: tuple[VideoLayout | None, ...]
    family: str
    decode: Callable[[Sequence[int]], str] | None
    no_grid_reason: str

    @property
    def shown(self) -> frozenset[int]:
        """The positions of all tokens of images and videos.

        Example:
            >>> len(model.encode(image, "Is there a cat?").tokens.shown)
            196
        """
        return frozenset(position for tokens in (*self.images, *self.videos) for position in tokens)

    def cells(self, region: Region, *, image: int = 0, view: str | None = None, share: float = 0.5) -> Span:
        """The tokens of the image's cells that a box or a mask of pixels covers: the inverse of `Activation.to_pixels`.

        Args:
            region, share: as in `Grid.covered_by`.
            image, view: which image, and which view of it where it has several.

        Raises:
            GridUnknown: no such image or view, or the family does not say where its tokens lie.
            SpanNotFound: no cell is covered as much.
            InvalidRead: neither a box nor a mask of this image.

        Example:
            >>> tokens = model.encode(image, "Is there a cat?").tokens
            >>> len(tokens.cells((0, 0, image.width / 2, image.height)))
            98
        """
        if not 0 <= image < len(self.images):
            raise GridUnknown(f"The cells of image {image!r} were asked for, there are {len(self.images)} images, counted from 0.")
        self.check_layouts()
        layout = self.layouts[image]
        if layout is None:
            raise GridUnknown(f"The cells of image {image} are not known: {self._no_layout_reason()}.")
        covered = layout.grid(view).covered_by(region, share)
        if not covered:
            raise SpanNotFound(f"No cell has {share:g} of its area in this region. Pass share=0 for every cell that it touches.")
        return Span(tuple(self.images[image][token] for token in covered), "cells")

    def check_layouts(self) -> None:
        """Check for every image and video with a declared layout that it has as many tokens as `input_ids` (GridMismatch)."""
        for positions, layout in (*zip(self.images, self.layouts, strict=True), *zip(self.videos, self.video_layouts, strict=True)):
            if layout is not None:
                layout.check(len(positions), self.family)

    def layout_or_reason(self, positions: Sequence[int]) -> tuple[ImageLayout | VideoLayout | None, str]:
        """The layout of the image, video or frame whose tokens these positions are, in order; without one, the reason why they cannot be folded."""
        wanted = tuple(positions)
        for image, layout in (*zip(self.images, self.layouts, strict=True), *zip(self.videos, self.video_layouts, strict=True)):
            if wanted == image:
                return layout, "" if layout else self._no_layout_reason()
        for video, laid in zip(self.videos, self.video_layouts, strict=True):
            for _, step, of_frame in laid.steps(video) if laid else ():
                if wanted == step:
                    return of_frame, ""
        if self.no_grid_reason and not any(self.images):
            return None, self.no_grid_reason
        return None, "these positions are not the tokens of one whole image, in order"

    def _no_layout_reason(self) -> str:
        if self.decode is None:
            return "a plain encoding does not say which image its tokens are of; model.encode() keeps image and tokens together"
        if self.no_grid_reason:
            return self.no_grid_reason
        return f"{self.family} does not say where its image tokens lie on the image"
