"""The numbers of a page, as its script reads them: a header, and arrays by name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probe.attribution.likely import LikelyTokens
from probe.errors import InvalidRead
from probe.tokens.spans import TokenMap
from probe.views.page.content import Content, View, answer_positions
from probe.views.page.maps import STEPS, quantise, spatial_entropy

Arrays = dict[str, NDArray[np.generic]]

MOST_LIKELY = 3
"""Words that are named of a state."""


def numbers_of(content: Content, likely: LikelyTokens | None) -> tuple[dict[str, object], Arrays]:
    """The header's part on tokens, views and maps, and the arrays that it describes.

    Each view has, under its number, the bytes of its maps (map, token, cell) with the `low` and `high` of each; attention also the exact `mass` on
    the view's cells and their `entropy`, (map, token).
    """
    arrays: Arrays = {}
    for number, view in enumerate(content.views):
        arrays[f"positions {number}"] = np.array(view.positions, dtype=np.uint32)
        if "attention" in content.maps:
            cells = content.maps["attention"].of_view(view)
            mass = cells.sum(-1)
            shown = cells if view.grid else mass[..., None]
            entropy = spatial_entropy(shown.reshape(-1, *(view.grid.shape if view.grid else (1, 1))))
            arrays |= _quantised(f"attention {number}", shown)
            arrays |= {f"mass {number}": mass.numpy(), f"entropy {number}": entropy.reshape(mass.shape).numpy()}
        if "cosine" in content.maps and view.grid:
            arrays |= _quantised(f"cosine {number}", content.maps["cosine"].of_view(view))
    header: dict[str, object] = {
        "steps": STEPS,
        "tokens": _tokens(content),
        "views": [_described(view) for view in content.views],
        "maps": {name: maps.labels for name, maps in content.maps.items()},
        "notes": list(content.notes),
    }
    if likely is not None:
        header["likely"], found = _likely(likely)
        arrays |= found
    return header, arrays


def _quantised(name: str, maps: Float[Tensor, "map token cell"]) -> Arrays:
    quantised = quantise(maps)
    return {name: quantised.values, f"{name} low": quantised.low, f"{name} high": quantised.high}


def _tokens(content: Content) -> list[dict[str, object]]:
    """Text and position of each token of the strip, and its place among the tokens of each kind of maps, where it has one."""
    answer = answer_positions(content.tokens)
    places = {name: {position: place for place, position in enumerate(maps.tokens)} for name, maps in content.maps.items()}
    return [
        {
            "position": position,
            "text": token_text(content.tokens, position),
            "answer": position in answer,
            "places": {name: known[position] for name, known in places.items() if position in known},
        }
        for position in content.strip
    ]


def token_text(tokens: TokenMap, position: int) -> str:
    """The text of one token; of one without text its id, such as "#2"."""
    number = tokens.ids[position]
    text = "" if tokens.decode is None or number in tokens.special else tokens.decode([number])
    return text.strip() or ("⏎" if "\n" in text else f"#{number}")


def _described(view: View) -> dict[str, object]:
    """A view's name and image, and of its grid the edges of rows and columns, in pixels, and the size of the image."""
    described: dict[str, object] = {"name": view.name, "image": view.image}
    if view.grid:
        described |= {"size": list(view.grid.image_size), "rows": view.grid.intervals(0), "cols": view.grid.intervals(1)}
    return described


def _likely(likely: LikelyTokens) -> tuple[Mapping[str, object], Arrays]:
    """The likeliest words by layer and position: `likely` (layer, position, word) are places in `names`.

    Raises:
        InvalidRead: the words have other axes, or are of several sequences.
    """
    ids = likely.ids
    if ids.dims != ("layer", "batch", "token", "word") or ids.shape["batch"] != 1:
        raise InvalidRead(
            f"likely={likely!r} has other axes than a page takes. Pass model.lens(trace.hidden(at, layers=...), top=3), of one sequence."
        )
    top = ids.data[:, 0, :, :MOST_LIKELY].cpu()
    known, places = top.unique(return_inverse=True)
    probabilities = likely.probabilities.data[:, 0, :, :MOST_LIKELY].float().cpu()
    header = {
        "layers": list(ids.coords.get("layer", range(ids.shape["layer"]))),
        "positions": list(ids.coords.get("token", range(ids.shape["token"]))),
        "names": [likely.names[number] for number in known.tolist()],
    }
    return header, {
        "likely": places.numpy().astype(np.uint32),
        "likely probabilities": (probabilities * 255).round().to(torch.uint8).numpy(),
    }
