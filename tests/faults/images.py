"""Hostile images: every file and object becomes an RGB image or an ImageError, and none is waited for."""

from __future__ import annotations

import io
import os
import signal
import socket
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import probe
from probe.errors import ImageError
from tests.faults.campaign import Campaign, Outcome

SECONDS = 10
"""An image that has not been opened after this long counts as one that is waited for."""

Made = Callable[[Path], Any]
WHOLE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "TGA", "ICO", "JPEG2000", "PCX", "SGI", "DDS")
"""What random damage is done to."""


def encoded(kind: str, image: Image.Image = WHOLE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def file(name: str, content: bytes) -> Made:
    def made(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return made


def cut(kind: str, share: float) -> Made:
    whole = encoded(kind)
    return file(f"cut.{kind.lower()}", whole[: int(len(whole) * share)])


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header claims this size, with the data of a small one."""
    small = encoded("PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + small[24:29]
    return small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]


def with_exif(content: bytes) -> bytes:
    """A JPEG with this EXIF block."""
    segment = b"Exif\0\0" + content
    plain = encoded("JPEG")
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]


def orientation(value: int) -> bytes:
    return struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, value, 0, 0)


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.png")
    return folder / "pipe.png"


def listening(folder: Path) -> Path:
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(folder)  # a socket's path has at most 107 bytes
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("socket.png")
    finally:
        os.chdir(here)
        os.close(here)
    return folder / "socket.png"


def link(target: str) -> Made:
    def made(folder: Path) -> Path:
        (folder / "link.png").symlink_to(target)
        return folder / "link.png"

    return made


def locked(folder: Path) -> Path:
    path = file("locked.png", encoded("PNG"))(folder)
    path.chmod(0)
    return path


def bytes_name(folder: Path) -> str:
    path = os.path.join(os.fsencode(folder), b"caf\xe9.png")
    with open(path, "wb") as out:
        out.write(encoded("PNG"))
    return os.fsdecode(path)


def closed(folder: Path) -> Image.Image:
    image = Image.open(file("closed.png", encoded("PNG"))(folder))
    image.close()
    return image


def numbers(mode: str, values: Any, dtype: Any) -> Made:
    return lambda _: Image.frombytes(mode, (2, 1), np.array(values, dtype=dtype).tobytes())


# Name, what is opened, and whether it is an image; None: that depends on Pillow's build or on who asks.
CASES: list[tuple[str, Made, bool | None]] = [
    *((f"{kind} cut at {share:.0%}", cut(kind, share), False) for kind in ("PNG", "JPEG", "TIFF", "WEBP") for share in (0.02, 0.6)),
    ("GIF cut at 2%", cut("GIF", 0.02), False),
    ("GIF cut at 60%", cut("GIF", 0.6), False),
    ("a JPEG called .png", file("a.png", encoded("JPEG")), True),
    ("text called .jpg", file("a.jpg", b"hello"), False),
    ("an empty file", file("empty.png", b""), False),
    ("a header alone", file("head.png", encoded("PNG")[:33]), False),
    ("a PNG of no width", file("none.png", png_of(0, 5)), False),
    ("a PNG that claims 60,000 x 60,000", file("bomb.png", png_of(60_000, 60_000)), False),
    ("a PNG that claims 2^31 - 1 a side", file("bomb.png", png_of(2**31 - 1, 2**31 - 1)), False),
    ("a BMP that claims 60,000 x 60,000", file("b.bmp", encoded("BMP")[:18] + struct.pack("<ii", 60_000, 60_000) + bytes(60)), False),
    ("a PNG with a wrong checksum", file("crc.png", encoded("PNG")[:29] + b"\0\0\0\0" + encoded("PNG")[33:]), False),
    ("CMYK", file("a.jpg", encoded("JPEG", WHOLE.convert("CMYK"))), True),
    ("CMYK with transparency in its notes", lambda _: noted(WHOLE.convert("CMYK")), True),
    ("a palette with transparent entries", file("p.png", encoded("PNG", WHOLE.convert("P"), transparency=bytes(range(256)))), True),
    ("a GIF with a transparent colour", file("p.gif", encoded("GIF", WHOLE.convert("P"), transparency=3)), True),
    ("grey with alpha", file("la.png", encoded("PNG", WHOLE.convert("LA"))), True),
    ("premultiplied alpha", lambda _: WHOLE.convert("RGBA").convert("RGBa"), True),
    ("premultiplied grey", lambda _: WHOLE.convert("LA").convert("La"), True),
    ("one bit", file("1.png", encoded("PNG", WHOLE.convert("1"))), True),
    ("16 bits", file("16.png", encoded("PNG", Image.fromarray(np.full((4, 4), 200, np.uint16)))), True),
    ("16 bits, big-endian", numbers("I;16B", [0, 65535], ">u2"), True),
    ("integers of 16 bits", numbers("I", [0, 65535], "<i4"), True),
    ("integers past 16 bits", numbers("I", [0, 65536], "<i4"), False),
    ("negative integers", numbers("I", [-1, 0], "<i4"), False),
    ("fractions in a TIFF", file("f.tif", encoded("TIFF", Image.fromarray(np.full((4, 4), 0.5, np.float32)))), True),
    ("fractions with NaN", numbers("F", [0.5, np.nan], "<f4"), False),
    ("floats in 0..255", numbers("F", [0, 255], "<f4"), False),
    ("LAB", lambda _: Image.new("LAB", (4, 4)), None),
    ("an animation", file("a.gif", encoded("GIF", save_all=True, append_images=[WHOLE.rotate(90)])), True),
    ("an animation in WebP", file("a.webp", encoded("WEBP", save_all=True, append_images=[WHOLE.rotate(90)])), True),
    *((f"EXIF orientation {value}", file("e.jpg", with_exif(orientation(value))), True) for value in (0, 6, 7, 9, 65535)),
    ("EXIF of noise", file("e.jpg", with_exif(bytes(range(200)))), True),
    ("EXIF cut short", file("e.jpg", with_exif(orientation(6)[:11])), True),
    (
        "EXIF whose directory points to itself",
        file("e.jpg", with_exif(struct.pack(">2sHIHHHIII", b"MM", 42, 8, 1, 0x8769, 4, 1, 8, 8))),
        True,
    ),
    ("a folder", lambda folder: folder, False),
    ("a pipe", fifo, False),
    ("a socket", listening, False),
    ("a device", lambda _: Path("/dev/zero"), False),
    ("a link to nowhere", link("nowhere.png"), False),
    ("a link to itself", link("link.png"), False),
    ("a file that may not be read", locked, None),
    ("a file below a file", lambda folder: file("a.png", b"")(folder) / "b.png", False),
    ("a path of 5,000 characters", lambda _: "a" * 5000, False),
    ("a deep path of 5,000 characters", lambda _: "a/" * 2500, False),
    ("a name that is no UTF-8", bytes_name, True),
    ("a name with a lone surrogate", lambda _: "\ud800.png", False),
    ("a name with a NUL", lambda _: "a\0.png", False),
    ("an empty path", lambda _: "", False),
    ("a URL", lambda _: "https://example.org/cat.png", False),
    ("a URL as a path", lambda _: Path("https://example.org/cat.png"), False),
    ("a data URL", lambda _: "data:image/png;base64," + "A" * 9000, False),
    ("a closed image", closed, False),
    ("bytes", lambda _: encoded("PNG"), False),
    ("nothing", lambda _: None, False),
    ("an array of no rows", lambda _: np.zeros((0, 4, 3), np.uint8), False),
    ("an array of objects", lambda _: np.full((2, 2), None), False),
    ("an array of complex numbers", lambda _: np.zeros((2, 2), complex), False),
    ("an array of 16 bits, big-endian", lambda _: np.full((2, 2), 257, ">u2"), True),
    ("an array of 40 axes", lambda _: np.zeros((1,) * 40, np.uint8), False),
    ("a bfloat16 tensor", lambda _: torch.full((3, 2, 2), 0.5, dtype=torch.bfloat16), True),
    ("a sparse tensor", lambda _: torch.zeros(2, 2).to_sparse(), False),
    ("a tensor without values", lambda _: torch.empty(3, 2, 2, device="meta"), False),
    ("a tensor with infinity", lambda _: torch.full((3, 2, 2), torch.inf), False),
]


def noted(image: Image.Image) -> Image.Image:
    image.info["transparency"] = 0
    return image


def trials(count: int, folder: Path, random: np.random.Generator) -> Iterator[Outcome]:
    """The cases above, then random damage to files of many formats."""
    for number in range(count):
        own = folder / str(number)
        own.mkdir()
        name, made, image = CASES[number] if number < len(CASES) else _damaged(random)
        yield _opened(name, made(own), image)


def _damaged(random: np.random.Generator) -> tuple[str, Made, bool | None]:
    kind = FORMATS[random.integers(len(FORMATS))]
    content = bytearray(encoded(kind))
    places = random.integers(len(content), size=random.integers(1, 20))
    for place in places:
        content[place] = random.integers(256)
    end = int(random.integers(1, len(content) + 1)) if random.random() < 0.3 else len(content)
    return (
        f"{kind} with bytes {places.tolist()} changed, {end} of {len(content)} kept",
        file(f"a.{kind.lower()}", bytes(content[:end])),
        None,
    )


class Late(BaseException):
    """Raised in the middle of an opening that takes too long; no exception that a decoder's handler would catch."""


def _opened(name: str, source: Any, image: bool | None) -> Outcome:
    def late(*_: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = probe.open_image(source)
        good = made.mode == "RGB" and min(made.size) > 0
        return Outcome("an RGB image", "" if good and image is not False else f"{name}: became {made}")
    except ImageError as error:
        return Outcome("an ImageError", "" if not image else f"{name}: {error}")
    except Exception as error:
        return Outcome("another exception", f"{name}: {error!r}")
    except Late:
        return Outcome("waited for", f"{name}: not opened after {SECONDS} s")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


CAMPAIGNS = [Campaign("images", "hostile image files and objects, then random damage to files", 3000, len(CASES) + 40, trials)]
