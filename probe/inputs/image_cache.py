"""A checkpoint's processor whose image processor prepares the images of many prompts once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, BatchFeature, ProcessorMixin


@dataclass(frozen=True, eq=False)
class CachedImages:
    """The output of one call of an image processor, and the arguments that it was called with."""

    image_processor: BaseImageProcessor
    images: list[Image.Image]
    options: Mapping[str, object]
    features: BatchFeature

    def answers(self, image_processor: BaseImageProcessor, images: list[Image.Image], options: Mapping[str, object]) -> bool:
        """Whether another call would have the same output: the same image processor, with equal images and options."""
        same_call = self.image_processor is image_processor and self.options == options and len(self.images) == len(images)
        return same_call and all(one is other or one == other for one, other in zip(self.images, images, strict=True))


@dataclass(frozen=True, eq=False)
class ImageCache:
    """The outputs of image processors for a set of prepared images, one entry for each image processor and set of options."""

    entries: list[CachedImages] = field(default_factory=list)


def with_image_cache(processor: ProcessorMixin, image_cache: ImageCache) -> ProcessorMixin:
    """A copy of the processor whose image processor looks into the cache first; the given processor stays as it is.

    A processor without a replaceable image processor is returned itself.
    """
    if isinstance(getattr(type(processor), "image_processor", None), property) or not hasattr(processor, "image_processor"):
        return processor
    cached = copy.copy(processor)
    cached.image_processor = CachedImageProcessor(processor.image_processor, image_cache)
    return cached


class CachedImageProcessor:
    """An image processor that returns its earlier output for equal images and options. Its attributes are the wrapped one's."""

    def __init__(self, image_processor: BaseImageProcessor, image_cache: ImageCache) -> None:
        self._image_processor, self._entries = image_processor, image_cache.entries

    def __call__(self, images: object, *args: object, **options: object) -> BatchFeature:
        flat = list(_leaves(images))
        pil_images = [image for image in flat if isinstance(image, Image.Image)]
        if args or len(pil_images) < len(flat):
            return self._image_processor(images, *args, **options)
        for entry in self._entries:
            if entry.answers(self._image_processor, pil_images, options):
                return copy.copy(entry.features)
        features = self._image_processor(images, **options)
        # Copies, since processors take entries out of the features.
        self._entries.append(CachedImages(self._image_processor, pil_images, options, copy.copy(features)))
        return features

    def __getattr__(self, name: str) -> object:
        if name.startswith("_"):  # copy and pickle ask before __init__ has set the attributes
            raise AttributeError(name)
        return getattr(self._image_processor, name)


def _leaves(images: object) -> Iterator[object]:
    """The images of nested lists."""
    if isinstance(images, (list, tuple)):
        for image in images:
            yield from _leaves(image)
    else:
        yield images
