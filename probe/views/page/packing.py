"""The page's data as text: a header and arrays, deflated, in base64."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from probe.disk import strict_json

ALIGNMENT = 4
"""Each array begins at a multiple of this: the browser's Float32Array takes no other offset."""


def pack(header: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]) -> str:
    """Header and arrays as one string, which `parts.js` opens with the browser's DecompressionStream("deflate").

    Deflated are: the header's length (4 bytes, little-endian), the header (JSON), and the arrays one after the other. Under "arrays" the header
    says of each its `dtype`, `shape`, and `offset` from the end of the header.

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
    return base64.b64encode(zlib.compress(b"".join([len(written).to_bytes(4, "little"), written, *parts]), 9)).decode("ascii")


def _padded(data: bytes, filler: bytes = b"\0") -> bytes:
    return data + filler * (-len(data) % ALIGNMENT)
