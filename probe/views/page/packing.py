"""The page's data as text: a header and arrays, deflated, in base85."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from probe.disk import strict_json

ALIGNMENT = 4
"""Each array begins at a multiple of this: the browser's Float32Array takes no other offset."""

STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE)
"""Of each array the smallest result is taken. What repeats itself is best deflated by default. In maps the repetitions that zlib finds are mostly
chance: codes for single bytes, or for bytes and runs, are up to a fifth smaller and need no search."""


def pack(header: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]) -> str:
    """Header and arrays as one string, which `parts.js` opens with the browser's DecompressionStream("deflate").

    The text is `base64.b85encode` of a zlib stream, with "," in place of "<", which could begin a tag. The stream contains the header's length
    (4 bytes, little-endian), the header (JSON), and the arrays one after the other. Under "arrays" the header says of each its `dtype`, `shape`,
    and `offset` from the end of the header.

    Args:
        arrays: of uint8, uint16, uint32 or float32.
    """
    described, parts, offset = {}, [], 0
    for name, array in arrays.items():
        data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        described[name] = {"dtype": array.dtype.name, "shape": list(array.shape), "offset": offset}
        parts.append(_padded(data))
        offset += len(parts[-1])
    written = _padded(strict_json.dump({**header, "arrays": described}), b" ")
    deflated = _deflated([len(written).to_bytes(4, "little") + written, *parts])
    return base64.b85encode(deflated).replace(b"<", b",").decode("ascii")


def _deflated(parts: Sequence[bytes]) -> bytes:
    """One zlib stream of all parts, each deflated by itself: a flush ends it at a whole byte, and nothing refers back across it."""
    end, checksum = zlib.compressobj(wbits=-zlib.MAX_WBITS).flush(), 1
    for part in parts:
        checksum = zlib.adler32(part, checksum)
    return b"".join([b"\x78\x9c", *map(_smallest, parts), end, checksum.to_bytes(4, "big")])


def _smallest(part: bytes) -> bytes:
    made = []
    for strategy in STRATEGIES:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS, memLevel=9, strategy=strategy)
        made.append(deflate.compress(part) + deflate.flush(zlib.Z_FULL_FLUSH))
    return min(made, key=len)


def _padded(data: bytes, filler: bytes = b"\0") -> bytes:
    return data + filler * (-len(data) % ALIGNMENT)
