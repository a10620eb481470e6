"""A checkpoint's processor that prepares the pictures of many prompts once."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from PIL import Image


@dataclass(frozen=True, eq=False)
class ImageCache:
    """What image processors made of images: one entry for each processor, images and options."""

    made: list[tuple[Any, list[Image.Image], dict[str, Any], Any]] = field(default_factory=list)


def with_image_cache(processor: Any, image_cache: ImageCache) -> Any:
    """The processor, with an image processor that looks into what is remembered first. The given one stays as it is."""
    if isinstance(getattr(type(processor), "image_processor", None), property) or not hasattr(processor, "image_processor"):
        return processor
    made = copy.copy(processor)
    made.image_processor = CachedImageProcessor(processor.image_processor, image_cache)
    return made


class CachedImageProcessor:
    """Asked about the same images with the same options again, it gives what it gave before. Everything else is the image processor's."""

    def __init__(self, maker: Any, image_cache: ImageCache) -> None:
        self._maker, self._made = maker, image_cache.made

    def __call__(self, images: Any, *args: Any, **options: Any) -> Any:
        shown = list(_leaves(images))
        if args or not all(isinstance(image, Image.Image) for image in shown):
            return self._maker(images, *args, **options)
        for maker, known, given, features in self._made:
            if maker is self._maker and given == options and len(known) == len(shown) and all(map(_same, known, shown)):
                return copy.copy(features)
        features = self._maker(images, **options)
        # Copies, since processors take entries out of what they get.
        self._made.append((self._maker, shown, options, copy.copy(features)))
        return features

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # asked for before there is a maker, when this is copied or unpickled
            raise AttributeError(name)
        return getattr(self._maker, name)


def _leaves(images: Any) -> Iterator[Any]:
    if isinstance(images, (list, tuple)):
        for image in images:
            yield from _leaves(image)
    else:
        yield images


def _same(one: Image.Image, other: Image.Image) -> bool:
    return one is other or one == other
