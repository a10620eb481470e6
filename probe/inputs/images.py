"""Image files, arrays and resizing: every image is converted once, to an upright RGB PIL image."""

from __future__ import annotations

import os
import re
import stat
import threading
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from probe.errors import ImageError

Array = NDArray[np.generic]

ImageLike = Image.Image | str | Path | Array | Tensor
"""A PIL image, a file's path, or an array: (height, width), (height, width, 1|3|4) as numpy, (1|3|4, height, width) as torch."""

OPENING = threading.Lock()
"""Held while warnings are filtered: the filters are global to the process, and reading a header takes microseconds."""

IMAGE_ENDINGS = frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN)
"""The endings of the files that Pillow reads, in lower case, each with its dot."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> the transposition that makes the image upright."""


def open_image(image: ImageLike) -> Image.Image:
    """The image as a viewer shows it: upright (EXIF), RGB, 8 bit; of an animation the first frame. Alpha is composed over white.

    Values mean the same in files, PIL images and arrays: 8-bit values stay as they are, 16-bit ones (also PIL's mode I, whose values must
    be in 0..65535) are divided by 257 however dark the image is, floating ones (also PIL's mode F) are in 0..1.

    Args:
        image: a PIL image, the path of a regular file, or an array of uint8, uint16, bool or a floating type.

    Raises:
        ImageError: no such file, not an image, truncated, or values, a shape or a type other than these.

    Example:
        >>> probe.open_image(np.zeros((480, 640), dtype=np.uint8)).size
        (640, 480)
    """
    if isinstance(image, (str, Path)):
        return read_image(image)[0]
    if isinstance(image, Tensor):
        return _from_array(_as_array(image))
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Image.Image):
        return _to_rgb(image, "The image")
    raise ImageError(f"An image was expected (PIL image, path, or array), got {type(image).__name__}. Pass one of these.")


def open_images(images: ImageLike | Sequence[ImageLike]) -> list[Image.Image]:
    """One image or a list of them, each as `open_image` opens it."""
    return [open_image(image) for image in images] if isinstance(images, (list, tuple)) else [open_image(images)]  # type: ignore[arg-type]


def read_image(path: str | Path) -> tuple[Image.Image, bytes]:
    """The image of a file, as `open_image` returns it, and the bytes that it was decoded from, in one read.

    Raises:
        ImageError: no such file, not an image, or truncated.
    """
    named = _named(str(path))
    _check_regular(path, named)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{named} cannot be opened: {error.strerror}. Change the file's permissions, or pass another path.") from error
    return decoded_image(content, named), content


def is_image_file(path: Path) -> bool:
    """Whether this is a regular file with the ending of an image."""
    return path.suffix.lower() in IMAGE_ENDINGS and path.is_file()


def decoded_image(content: bytes, named: str) -> Image.Image:
    """The image of a file's bytes, as `open_image` returns it.

    Args:
        named: what an error calls the file.

    Raises:
        ImageError: the bytes are not an image, or a part of one.
    """
    try:
        with OPENING, warnings.catch_warnings():
            # An image of more than 89 megapixels that the user names is large, not an attack.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(BytesIO(content))
        with opened:
            return _to_rgb(opened, named)
    except UnidentifiedImageError as error:
        raise ImageError(f"{named} is not an image in a format that Pillow reads. Convert it to PNG or JPEG.") from error
    except ImageError:
        raise
    except Exception as error:  # Pillow's parsers raise exceptions of any type for damaged files
        raise _undecodable(named, error) from error


def _check_regular(path: str | Path, named: str) -> None:
    """Refuse a path that is no regular file: opening a FIFO would wait for a writer for ever."""
    if not str(path):
        raise ImageError("The path of an image is empty. Name a file.")
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        if _ADDRESS.match(str(path)):
            raise ImageError(f"{named} is an address. Images are opened from files or objects: download it, then pass its path.") from error
        raise ImageError(f"No image file {named}. Check the path; relative paths start at the current folder.") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no file can have this name"
        raise ImageError(f"{named} cannot be opened: {reason}. Pass the path of an image file.") from error
    if stat.S_ISDIR(mode):
        raise ImageError(f"{named} is a folder, an image file was expected. Name the files in it.")
    if not stat.S_ISREG(mode):
        raise ImageError(f"{named} is no regular file but a pipe, socket or device. Write the image into a file first.")


def _named(path: str, most: int = 120) -> str:
    """A path as an error shows it."""
    return repr(path) if len(path) <= most else f"{path[: most // 2]!r}...{path[-most // 2 :]!r} ({len(path)} characters)"


def _undecodable(named: str, error: Exception) -> ImageError:
    return ImageError(
        f"{named} cannot be decoded ({error}). It is damaged, cut short, too large, or of a mode without a way to RGB: get it again, or "
        "convert it."
    )


def _as_array(tensor: Tensor) -> Array:
    """A tensor of shape (height, width) or (channel, height, width) as an array with its channels last."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise ImageError("An image tensor is dense and holds its values, this one is sparse, quantised or on the meta device. Convert it.")
    pixels = tensor.detach().cpu().resolve_conj().resolve_neg()
    pixels = pixels.permute(1, 2, 0) if pixels.ndim == 3 else pixels
    return (pixels.float() if pixels.is_floating_point() else pixels).numpy()


def _from_array(array: Array) -> Image.Image:
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)) or 0 in array.shape:
        raise ImageError(f"An image array has shape (height, width) or (height, width, 3 or 4), got {array.shape}. Permute it first.")
    if array.dtype.kind == "b":
        array = array.astype(np.uint8) * 255
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = _of_sixteen_bits(array)
    elif array.dtype.kind == "f":
        array = _of_fractions(array)
    elif array.dtype != np.uint8:
        raise ImageError(f"An image array is uint8, uint16, bool or floating, got {array.dtype}. Convert it first.")
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)), "The array")


def _of_sixteen_bits(values: Array) -> Array:
    """16-bit values as 8-bit ones, rounded: 65535 = 255 * 257."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _of_fractions(values: Array) -> Array:
    """Values in 0..1 as 8-bit ones."""
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise ImageError("A floating image lies in 0..1, this one does not. Divide by its largest possible value, or pass uint8.")
    return np.rint(np.multiply(values, 255)).astype(np.uint8)


def _to_rgb(image: Image.Image, named: str) -> Image.Image:
    """A new upright image in RGB.

    Args:
        named: how an error names the image.
    """
    if 0 in image.size:
        raise ImageError(f"An image of {image.height} x {image.width} pixels is empty. Pass one with pixels.")
    try:
        image.load()
        transposition = _UPRIGHT.get(_orientation(image))
        upright = _without_alpha(image if transposition is None else image.transpose(transposition))
        upright.info.clear()  # its EXIF would transpose it a second time when it is opened again
        return upright
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise exceptions of any type for damaged files
        raise _undecodable(named, error) from error


def _without_alpha(image: Image.Image) -> Image.Image:
    """A new image in RGB, over white."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_of_numbers(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image  # Pillow does not convert La to RGBA directly
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation; 1 (upright) if there is none or the EXIF data is damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the parser raises exceptions of any type
        return 1


def _of_numbers(values: Array) -> Array:
    """The values of PIL's modes F, I and I;16, which its own conversion to RGB clips instead of scaling, as 8-bit ones."""
    if values.dtype.kind == "f":
        return _of_fractions(values)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError("An image of integers has 8 or 16 bits, in 0..65535, this one does not. Convert it first.")
    return _of_sixteen_bits(values)


def resize_directly(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The whole image at `size` (height, width), bicubic: no crop, no padding (the paper's section 4.2)."""
    height, width = size
    return image.resize((width, height), Image.Resampling.BICUBIC)


def padded_to_square(image: Image.Image, mean: tuple[float, ...]) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """The image in the middle of a square of the tower's mean colour, as LLaVA's own code has it (`image_aspect_ratio="pad"`).

    Args:
        mean: of each channel, 0 to 1, by which the tower's input is normalised: padding becomes about 0.

    Returns:
        the square, and its box (x0, y0, x1, y1) in pixels of the image.
    """
    side = max(image.size)
    left, top = (side - image.width) // 2, (side - image.height) // 2
    square = Image.new("RGB", (side, side), tuple(int(255 * value) for value in mean))
    square.paste(image, (left, top))
    return square, (float(-left), float(-top), float(side - left), float(side - top))


def normalise(images: Sequence[Image.Image], mean: tuple[float, ...], std: tuple[float, ...]) -> Float[Tensor, "image 3 height width"]:
    """The input of a vision tower of images of one size: (value / 255 - mean) / std per channel, float32."""
    # NumPy and in place: images are prepared in threads, where torch's own threads would wait for those of the model's forward
    pixels = np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2).astype(np.float32, order="C")
    pixels /= 255
    pixels -= np.array(mean, dtype=np.float32)[:, None, None]
    pixels /= np.array(std, dtype=np.float32)[:, None, None]
    return torch.from_numpy(pixels)
