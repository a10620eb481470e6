"""Image files, arrays and resizing: everything becomes an upright RGB picture, once, at the door."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from probe.errors import ImageError

ImageLike = Image.Image | str | Path | np.ndarray[Any, Any] | Tensor
"""A PIL image, a file's path, or an array: (height, width), (height, width, 1|3|4) as numpy, (1|3|4, height, width) as torch."""


def open_image(image: ImageLike) -> Image.Image:
    """The picture that a person would see: upright (EXIF), RGB, 8 bit.

    Args:
        image: a PIL image, a path, or an array. Integer arrays have 8 or 16 bits, floating ones lie in 0..1. Alpha is laid over white.

    Raises:
        ImageError: no such file, not an image, truncated, or an array of another shape or type.
    """
    if isinstance(image, (str, Path)):
        return _from_file(Path(image))
    if isinstance(image, Tensor):
        pixels = image.detach().cpu()
        pixels = pixels.permute(1, 2, 0) if pixels.ndim == 3 else pixels
        image = (pixels.float() if pixels.is_floating_point() else pixels).numpy()
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Image.Image):
        return _to_rgb(image)
    raise ImageError(f"An image was expected (PIL image, path, or array), got {type(image).__name__}. Pass one of these.")


def open_images(images: ImageLike | Sequence[ImageLike]) -> list[Image.Image]:
    """One image or a list of them, each as `open_image` opens it."""
    return [open_image(image) for image in images] if isinstance(images, (list, tuple)) else [open_image(images)]  # type: ignore[arg-type]


def read_image(path: Path) -> tuple[Image.Image, bytes]:
    """The picture of a file, as `open_image` gives it, and the bytes that it was decoded from: one reading for both.

    Raises:
        ImageError: no such file, not an image, or truncated.
    """
    _check_file(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _undecodable(path, error) from error
    return _decoded(path, BytesIO(content)), content


def _from_file(path: Path) -> Image.Image:
    _check_file(path)
    return _decoded(path, path)


def _check_file(path: Path) -> None:
    if not os.path.exists(path):  # as Path.exists, but for a name that is too long for one
        raise ImageError(f"No image file {str(path)!r}. Check the path; relative paths start at {str(Path.cwd())!r}.")
    if path.is_dir():
        raise ImageError(f"{str(path)!r} is a folder, an image file was expected. Name the files in it.")
    if not path.is_file():  # a pipe would be waited for, perhaps for ever
        raise ImageError(f"{str(path)!r} is a pipe or a device, an image file was expected. Save the picture to a file.")


def _decoded(path: Path, source: Path | BytesIO) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pictures past 89 megapixels are large, not an attack, when their owner names them.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source) as opened:
                opened.load()
                return _to_rgb(opened)
    except UnidentifiedImageError as error:
        raise ImageError(f"{str(path)!r} is not an image in a format that Pillow reads. Convert it to PNG or JPEG.") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _undecodable(path, error) from error


def _undecodable(path: Path, error: Exception) -> ImageError:
    return ImageError(f"{str(path)!r} cannot be decoded ({error}): it is damaged, cut short or too large. Get the file again.")


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)) or 0 in array.shape:
        raise ImageError(f"An image array has shape (height, width) or (height, width, 3 or 4), got {array.shape}. Permute it first.")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ImageError("A floating image array lies in 0..1, this one does not. Divide by its largest possible value, or pass uint8.")
        array = np.round(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"An image array is uint8, uint16, bool or floating, got {array.dtype}. Convert it first.")
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)))


def _to_rgb(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise ImageError(f"An image of {image.height} x {image.width} pixels has nothing to look at.")
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            return _sixteen_bit(image)
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"The image cannot be decoded ({error}): it is damaged or cut short. Get it again.") from error


def _sixteen_bit(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips 16 bits to 255 instead of scaling them.
    values = np.asarray(image, dtype=np.float64)
    values = np.clip(values / 257.0 if values.max() > 255 else values, 0, 255)
    return Image.fromarray(np.round(values).astype(np.uint8)).convert("RGB")


def resize_directly(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The whole picture at `size` (height, width), bicubic: no crop, no padding (the paper's section 4.2)."""
    height, width = size
    return image.resize((width, height), Image.Resampling.BICUBIC)


def normalise(image: Image.Image, mean: tuple[float, ...], std: tuple[float, ...]) -> Float[Tensor, "3 height width"]:
    """Pixels as a tower takes them: (value / 255 - mean) / std per channel, float32."""
    pixels = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 255
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
