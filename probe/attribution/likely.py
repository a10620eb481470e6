"""LikelyTokens: what a lens finds likeliest at each position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from probe.tokens.equality import equal_fields
from probe.tracing.activation import Activation

_LINES = 40


@dataclass(frozen=True, eq=False)
class LikelyTokens:
    """The likeliest next tokens of states, the likeliest first. Holds no model; can be pickled, copied and compared.

    Attributes:
        ids: int64, with the axes of the states and, instead of `feature`, an axis `word` of the tokens.
        probabilities: float32, of the same axes; in the whole vocabulary, so they sum to less than 1.
        names: the text of each token that occurs.

    >>> trace = model.run(model.encode(image, "Is there a cat?"), probe.Hidden(layers=[4, 8], at=-1))
    >>> likely = model.lens(trace.hidden(), top=2)
    >>> print(likely.sel(layer=8))
    batch 0, token 209: ' yes' 1.00, ' No' 0.00
    >>> likely.texts.shape  # layers, rows, positions, tokens
    (2, 1, 1, 2)
    """

    ids: Activation
    probabilities: Activation
    names: Mapping[int, str]

    @property
    def texts(self) -> NDArray[np.str_]:
        """The tokens' texts, in an array with the axes of `ids`."""
        ids = self.ids.numpy()
        texts = [self.names[int(token)] for token in ids.flat]
        return np.array(texts, dtype=np.str_).reshape(ids.shape)

    def sel(self, **labels: SupportsIndex | Sequence[int] | slice) -> LikelyTokens:
        """Those of some layers and positions, by their labels; see `Activation.sel`."""
        return LikelyTokens(self.ids.sel(**labels), self.probabilities.sel(**labels), self.names)

    def isel(self, **indices: SupportsIndex | Sequence[int] | slice) -> LikelyTokens:
        """Those of some layers and positions, by their indices; see `Activation.isel`."""
        return LikelyTokens(self.ids.isel(**indices), self.probabilities.isel(**indices), self.names)

    def __eq__(self, other: object) -> bool:
        return equal_fields(self, other) if isinstance(other, LikelyTokens) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        axes = ", ".join(f"{dim}={size}" for dim, size in self.ids.shape.items())
        return f"LikelyTokens({axes})"

    def __str__(self) -> str:
        dims = [dim for dim in self.ids.dims if dim != "word"]
        labels = [self.ids.coords.get(dim, range(self.ids.shape[dim])) for dim in dims]
        count = self.ids.shape.get("word", 1)
        texts, probabilities = self.texts.reshape(-1, count), self.probabilities.numpy().reshape(-1, count)
        lines = [
            ", ".join(f"{dim} {label}" for dim, label in zip(dims, place, strict=True))
            + (": " if dims else "")
            + ", ".join(f"{str(text)!r} {probability:.2f}" for text, probability in zip(row, shares, strict=True))
            for place, row, shares, _ in zip(product(*labels), texts, probabilities, range(_LINES), strict=False)
        ]
        left = len(texts) - len(lines)
        return "\n".join([*lines, f"... and {left} more"] if left else lines)
