"""Every image comes in upright, RGB and 8 bit, or with an error that says what is wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from probe.errors import ImageError
from probe.inputs.images import normalise, open_image, padded_to_square, read_image, resize_directly


def test_an_exif_rotated_photograph_comes_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees to view
    Image.new("RGB", (30, 10), "red").save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg").size == (10, 30)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red, green, blue = open_image(tmp_path / "a.jpg").getpixel((0, 0))
    assert red > 200
    assert max(green, blue) < 60


def test_transparent_pixels_lie_over_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 32896, dtype=np.uint16)).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (128, 128, 128)


def in_form(kind: str, values: np.ndarray, folder: Path) -> Any:
    """Numbers as an array, a tensor, a PIL image of this mode, or an image file with this suffix."""
    if kind.startswith("."):
        Image.fromarray(values).save(folder / f"a{kind}")
        return folder / f"a{kind}"
    whole = {"array": lambda: values, "tensor": lambda: torch.from_numpy(values)}
    return whole[kind]() if kind in whole else Image.frombytes(kind, values.shape[::-1], values.tobytes())


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("array", "<u2"),
        ("tensor", "<u2"),
        ("I;16", "<u2"),
        ("I;16B", ">u2"),
        ("I", "<i4"),
        (".png", "<u2"),
        (".tif", "<u2"),
        (".tif", "<i4"),
    ],
)
def test_a_dark_image_of_sixteen_bits_stays_dark_in_every_form(kind: str, dtype: str, tmp_path: Path) -> None:
    # 200 of 65535 is 0.8 of 255.
    assert open_image(in_form(kind, np.full((2, 2), 200, dtype), tmp_path)).getpixel((0, 0)) == (1, 1, 1)


@pytest.mark.parametrize("kind", ["array", "tensor", "F", ".tif"])
def test_fractions_are_shares_of_white_in_every_form(kind: str, tmp_path: Path) -> None:
    assert open_image(in_form(kind, np.full((2, 2), 0.2, np.float32), tmp_path)).getpixel((0, 0)) == (51, 51, 51)


@pytest.mark.parametrize(
    ("mode", "value", "message"),
    [
        ("F", 255.0, "lies in 0..1"),
        ("F", -0.1, "lies in 0..1"),
        ("F", np.nan, "lies in 0..1"),
        ("I", 65536, "8 or 16 bits"),
        ("I", -1, "8 or"),
    ],
)
def test_numbers_that_are_no_brightness_are_refused(mode: str, value: float, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_image(Image.new(mode, (2, 2), value))


def test_a_palette_png_shows_its_colours(tmp_path: Path) -> None:
    paletted = Image.new("P", (2, 2), 1)
    paletted.putpalette([0, 0, 0, 10, 20, 30])
    paletted.save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (10, 20, 30)


def test_one_pixel_and_very_wide_images_are_images() -> None:
    assert open_image(Image.new("RGB", (1, 1))).size == (1, 1)
    assert resize_directly(open_image(Image.new("L", (20000, 3))), (8, 8)).size == (8, 8)


def test_arrays_of_either_layout_come_in() -> None:
    assert open_image(np.zeros((2, 3, 3), dtype=np.uint8)).size == (3, 2)
    assert open_image(torch.ones(3, 2, 5)).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(np.full((2, 2), 0.5)).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2, 5), dtype=np.uint8), "shape"),
        (np.zeros((0, 2, 3), dtype=np.uint8), "shape"),
        (np.full((2, 2, 3), 7.0), "0..1"),
        (np.zeros((2, 2, 3), dtype=np.int64), "uint8"),
    ],
)
def test_arrays_that_are_no_image_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_image(array)


def test_files_that_are_no_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No image file"):
        open_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="is a folder"):
        open_image(tmp_path)
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ImageError, match="not an image"):
        open_image(tmp_path / "a.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:900])
    with pytest.raises(ImageError, match="cut short"):
        open_image(tmp_path / "b.jpg")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("https://example.org/cat.png", "'https://example.org/cat.png' is an address. Images are opened from files or objects"),
        (Path("https://example.org/cat.png"), "is an address"),
        ("a" * 5000, r"\(5000 characters\) cannot be opened: File name too long"),
        ("", "path of an image is empty"),
        ("\ud800.png", r"'\\ud800.png' cannot be opened: no file can have this name"),
        ("a\0.png", "no file can have this name"),
        ("/dev/zero", "no regular file"),
    ],
    ids=["url", "url as a path", "long", "empty", "surrogate", "nul", "device"],
)
def test_paths_that_name_no_file_are_refused_in_few_words(path: str | Path, message: str) -> None:
    with pytest.raises(ImageError, match=message) as refused:
        open_image(path)
    assert len(str(refused.value)) < 300


def test_a_pipe_is_refused_before_it_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="no regular file"):
        open_image(tmp_path / "pipe.png")


def test_a_name_that_is_no_utf8_is_opened(tmp_path: Path) -> None:
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9.png"))
    Image.new("RGB", (3, 2)).save(path)
    assert open_image(path).size == (3, 2)
    with pytest.raises(ImageError, match=r"'.*caf\\udce8.png'"):
        open_image(path.replace("\udce9", "\udce8"))


def test_a_wide_image_is_resized_not_cropped() -> None:
    halves = Image.new("RGB", (200, 100), "red")
    halves.paste("blue", (100, 0, 200, 100))
    small = resize_directly(halves, (8, 8))
    assert small.getpixel((0, 4)) == (255, 0, 0)
    assert small.getpixel((7, 4)) == (0, 0, 255)


@pytest.mark.parametrize("size", [(40, 90), (91, 40), (40, 40)])
def test_an_image_is_padded_to_a_square_as_llavas_own_processor_does(size: tuple[int, int]) -> None:
    """Max abs difference 1e-6: float32 arithmetic in another order."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    theirs = LlavaImageProcessorPil(do_pad=True, size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    mean, std = tuple(theirs.image_mean), tuple(theirs.image_std)
    square, (x0, y0, x1, y1) = padded_to_square(image, mean)
    ours = normalise([resize_directly(square, (24, 24))], mean, std)[0]
    torch.testing.assert_close(ours, theirs(image, return_tensors="pt")["pixel_values"][0], atol=1e-6, rtol=0)
    assert (x1 - x0, y1 - y0) == square.size
    assert square.crop((-x0, -y0, -x0 + image.width, -y0 + image.height)).tobytes() == image.tobytes()


def test_pixels_are_normalised_per_channel() -> None:
    pixels = normalise([Image.new("RGB", (2, 2), (255, 0, 51))], (0.5, 0.5, 0.0), (0.5, 0.25, 1.0))[0]
    assert torch.allclose(pixels[:, 0, 0], torch.tensor([1.0, -2.0, 0.2]))


def test_a_file_that_is_read_for_its_bytes_gives_the_same_image(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(path, exif=exif)
    image, content = read_image(path)
    assert content == path.read_bytes()
    np.testing.assert_array_equal(np.asarray(image), np.asarray(open_image(path)))
    np.testing.assert_array_equal(np.asarray(open_image(image)), np.asarray(image))  # not turned a second time


@pytest.mark.parametrize("content", [None, b"not a picture", b"", "cut"])
def test_a_file_that_is_read_for_its_bytes_is_refused_in_the_same_words(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "a.png"
    if content == "cut":
        Image.new("RGB", (90, 90), "red").save(path)
        content = path.read_bytes()[:-30]
    if isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(ImageError) as from_path:
        open_image(path)
    with pytest.raises(ImageError) as from_bytes:
        read_image(path)
    assert str(from_bytes.value) == str(from_path.value)
    assert str(path) in str(from_path.value)
