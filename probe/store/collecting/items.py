"""What is collected: items, each an image and a prompt."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from probe.disk import strict_json
from probe.errors import ImageError, InvalidItems
from probe.inputs.images import ImageLike, is_image_file, open_image, read_image

Label = str | int | float | bool | Sequence[str | int | float | bool]
"""The value of a label: one, or several of one type."""


@dataclass(frozen=True, eq=False)
class Item:
    """One thing to collect: an image, and what the model is told about it.

    Args:
        id: a name of its own, by which it is found in the store.
        image: an image, several, or None for a model of words. A path is opened when its turn comes.
        prompt: the user's words.
        answer: an answer that is teacher-forced; None: the prompt alone.
        labels: values to be kept beside it, by name. All items have the same names, and values of the same types.

    >>> probe.Item("cat-1", "images/cat-1.jpg", "Is there a cat?", labels={"class": "cat"}).labels["class"]
    'cat'
    """

    id: str
    image: ImageLike | Sequence[ImageLike] | None
    prompt: str
    answer: str | None = None
    labels: Mapping[str, Label] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise InvalidItems(f"Item({self.id!r}): an id is a text that is not empty. Pass str(...) of a number.")
        if not isinstance(self.prompt, str) or not isinstance(self.answer, (str, type(None))):
            raise InvalidItems(f"Item({self.id!r}): prompt is a text, and answer a text or None.")

    @property
    def images(self) -> tuple[ImageLike, ...]:
        """The images."""
        if self.image is None:
            return ()
        return tuple(self.image) if isinstance(self.image, (list, tuple)) else (cast("ImageLike", self.image),)


def check_items(items: Iterable[Item], *, with_images: bool) -> tuple[Item, ...]:
    """The items, checked before any forward.

    Args:
        with_images: whether the model takes images, so that each item needs one.

    Raises:
        InvalidItems: none, not an Item, an id that is there twice, an item without an image, or labels that do not go together.
    """
    checked = tuple(items)
    wrong = next((item for item in checked if not isinstance(item, Item)), None)
    if not checked or wrong is not None:
        raise InvalidItems(
            f"Items were expected, got {'none' if not checked else repr(wrong)}. Pass probe.Item(id, image, prompt), one or more."
        )
    twice, count = Counter(item.id for item in checked).most_common(1)[0]
    if count > 1:
        raise InvalidItems(f"The id {twice!r} is there {count} times. Items are found by their ids: give each one of its own.")
    bare = [item.id for item in checked if not item.images]
    if with_images and bare:
        raise InvalidItems(
            f"{len(bare)} items have no image, the first {bare[0]!r}. This model takes images: give each item one, or leave it out."
        )
    first = checked[0]
    kinds = {name: _kind(value) for name, value in first.labels.items()}
    for item in checked:
        _check_labels(item, first, kinds)
    return checked


def _check_labels(item: Item, first: Item, kinds: Mapping[str, tuple[str, int | None]]) -> None:
    if item.labels.keys() != kinds.keys():
        raise InvalidItems(
            f"{item.id!r} has the labels {', '.join(item.labels) or 'none'}, {first.id!r} has {', '.join(kinds) or 'none'}. "
            "Give all items the same labels."
        )
    for name, value in item.labels.items():
        kind = _kind(value)
        if kind != kinds[name]:
            raise InvalidItems(
                f"The label {name!r} of {item.id!r} is {_described(kind)}, that of {first.id!r} is {_described(kinds[name])}. "
                "Give all items labels of one type and one length."
            )
        if kind[0] not in ("text", "true or false", "whole number", "number"):
            raise InvalidItems(
                f"The label {name!r} of {item.id!r} is {kind[0]}. A label is a text, a number, true or false, or several of one of them."
            )


def _kind(value: object) -> tuple[str, int | None]:
    """The type of a label, and how many values it has; None: one by itself."""
    if isinstance(value, (list, tuple, np.ndarray, torch.Tensor)):
        kinds = {_kind(part)[0] for part in _plain_values(value)}
        return kinds.pop() if len(kinds) == 1 else "of several types" if kinds else "empty", len(value)
    named = ((bool, "true or false"), (str, "text"), ((int, np.integer), "whole number"), ((float, np.floating), "number"))
    return next((name for types, name in named if isinstance(value, types)), f"a {type(value).__name__}"), None


def _described(kind: tuple[str, int | None]) -> str:
    return kind[0] if kind[1] is None else f"{kind[1]} x {kind[0]}"


def _plain_values(value: Any) -> list[object]:
    return value.tolist() if isinstance(value, (np.ndarray, torch.Tensor)) else list(value)


def plain_labels(item: Item) -> dict[str, object]:
    """An item's labels as JSON has them."""
    return {name: _plain_label(value) for name, value in item.labels.items()}


def _plain_label(value: object) -> object:
    if isinstance(value, (list, tuple, np.ndarray, torch.Tensor)):
        return [_plain_label(part) for part in _plain_values(value)]
    return value.item() if isinstance(value, np.generic) else value


def open_item_images(item: Item) -> tuple[list[Image.Image], list[str]]:
    """An item's images, each read once, and a hash of each: of a file's bytes, or of the pixels.

    Raises:
        ImageError: one cannot be read.
    """
    opened = [_open(image) for image in item.images]
    return [image for image, _ in opened], [digest for _, digest in opened]


def _open(image: ImageLike) -> tuple[Image.Image, str]:
    if isinstance(image, (str, Path)):
        opened, content = read_image(image)
        return opened, _hash(content)
    opened = open_image(image)
    return opened, _hash(repr(opened.size).encode() + opened.tobytes())


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def items_of_folder(folder: Path, prompt: str) -> list[Item]:
    """An item for each image file of a folder, named after the file without its ending.

    Raises:
        InvalidItems: there is no such folder, or no image in it.
    """
    try:
        files = sorted(filter(is_image_file, folder.iterdir()))
    except OSError as error:
        raise InvalidItems(f"The images of {str(folder)!r} cannot be listed: {error.strerror}. Name a folder of images.") from error
    if not files:
        raise InvalidItems(f"{str(folder)!r} has no image files. Name a folder of images, or a file of items with --items.")
    twice = Counter(path.stem for path in files)
    return [Item(path.stem if twice[path.stem] == 1 else path.name, path, prompt) for path in files]


def items_of_file(path: Path, prompt: str | None) -> list[Item]:
    """The items of a JSON Lines file: `{"id", "image", "prompt", "answer", "labels"}`, where `image` is a path from the file's folder.

    Args:
        prompt: of the items that have none.

    Raises:
        InvalidItems: no such file, or a line that is no item; the message names it.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InvalidItems(f"The items of {str(path)!r} cannot be read: {error.strerror}. Name a JSON Lines file.") from error
    return [
        _item_of_line(line, f"Line {number} of {str(path)!r}", path.parent, prompt) for number, line in enumerate(lines, 1) if line.strip()
    ]


def _item_of_line(line: bytes, where: str, folder: Path, prompt: str | None) -> Item:
    try:
        values = strict_json.load(line)
    except ValueError as error:
        raise InvalidItems(f"{where} is no JSON: {error}.") from error
    known = ("id", "image", "prompt", "answer", "labels")
    if not isinstance(values, dict) or any(name not in known for name in values):
        raise InvalidItems(f"{where} is no item: an object with {', '.join(known)} was expected.")
    fields: dict[str, Any] = {"prompt": prompt, "image": None, **values}
    if fields["prompt"] is None:
        raise InvalidItems(f"{where} has no prompt. Write one into each line, or pass --prompt for all.")
    images = fields["image"]
    if isinstance(images, (str, list)):
        fields["image"] = [folder / one for one in images] if isinstance(images, list) else folder / images
    try:
        return Item(**fields)
    except (TypeError, InvalidItems, ImageError) as error:
        raise InvalidItems(f"{where} is no item: {error}") from error
