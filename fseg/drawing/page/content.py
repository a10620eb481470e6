"""What a result's page shows, and what its script computes with."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from fseg.drawing.palette import class_palette
from fseg.evidence import Evidence
from fseg.labels.values import IGNORED
from fseg.recipe import Recipe
from fseg.stages.tvr import Respond
from fseg.stages.vgm import Refine
from probe.views.page.shell import colours, jpeg, small_size

if TYPE_CHECKING:
    from fseg.result import Result

Arrays = dict[str, NDArray[np.generic]]

RECOMPUTED = ("D*M_A", "D", "M_A")
"""The fusions whose response follows from D and M_A, and so from alpha and beta."""

MOST_CELLS = 2048
"""Of a grid whose features are in the page: every pair of cells has a number in it."""

STEPS = 65535
"""Of a quantised cosine."""


def gathered(result: Result) -> tuple[dict[str, object], Arrays]:
    """The header and the arrays of a page, as `probe.views.page.packing.pack` takes them.

    D~, A_v and D_f are in it as float32, masks of the grid as bytes. What M_v is computed from are the cosines of each pair of cells' features,
    in 16 bits over their range, and the norms of the features. SAM's masks and the labels have the size of the page's image.

    Raises:
        NotFinite: a margin or a score is NaN or infinite.
        PackageNeeded: matplotlib, whose colour maps are used, is not installed.
    """
    size = small_size(result.image)
    arrays: Arrays = {"image 0": np.frombuffer(jpeg(result.image), dtype=np.uint8), "colours": colours()}
    arrays["labels"] = _resized(result.labels, size).astype(np.uint32 if len(result.classes) > IGNORED else np.uint8)
    found: list[Tensor] = []
    classes = []
    for i, described in enumerate(cast("list[dict[str, object]]", result.to_dict()["classes"])):
        name = result.classes[i]
        e = result.evidence[name]
        arrays |= {f"{kind} {i}": _map(values) for kind, values in e.maps().items()}
        mask = result.sam_masks[name]
        if mask is not None:
            arrays[f"sam {i}"] = np.packbits(_resized(mask, size).astype(np.bool_))
        classes.append({**described, "maps": list(e.maps()), "sam": mask is not None, "features": _place(e, found)})
    similar = []
    for number, features in enumerate(found):
        norms, values, low, high = quantised_cosines(features)
        arrays |= {f"norms {number}": norms, f"cosines {number}": values}
        similar.append([low, high])
    shown = next((e for e in result.evidence.values() if e.maps()), None)
    header: dict[str, object] = {
        "title": f"{', '.join(result.present) or 'None of the classes'}; recipe {result.recipe.name}",
        "models": ", ".join(f"{key} {value}" for key, value in result.models.items()),
        "size": list(size),
        "classes": classes,
        "palette": class_palette(result.classes)[: len(result.classes) + 1].tolist(),
        "grid": None if shown is None else _described(shown),
        "similar": similar,
        "steps": STEPS,
        **_thresholds(result.recipe),
        "notes": _notes(result, len(found)),
    }
    return header, arrays


def quantised_cosines(
    features: Float[Tensor, "row col feature"],
) -> tuple[NDArray[np.float32], NDArray[np.uint16], float, float]:
    """The norm of each cell's feature, and the cosine of each pair of cells in 16 bits.

    The cosine of a feature to a mean of features, as Eq. 11 needs it, follows from these alone.

    Returns:
        the norms; the quantised cosines of the pairs (i, j) with i <= j, row by row; and the cosines that 0 and 65535 stand for.

    >>> norms, values, low, high = quantised_cosines(torch.tensor([[[3.0, 0.0], [0.0, 4.0]]]))
    >>> norms.tolist(), values.tolist(), low, high
    ([3.0, 4.0], [65535, 0, 65535], 0.0, 1.0)
    """
    cells = features.flatten(0, 1).double()
    unit = normalize(cells, dim=-1)
    first, second = torch.triu_indices(len(cells), len(cells))
    cosines = (unit @ unit.T)[first, second].numpy()
    low, high = float(cosines.min()), float(cosines.max())
    values = np.rint((cosines - low) / max(high - low, 1e-12) * STEPS).astype(np.uint16)
    return cells.norm(dim=-1).float().numpy(), values, low, high


def _place(e: Evidence, found: list[Tensor]) -> int | None:
    """The place of a class's features among those found, where the page can have them. The classes of an image mostly share them."""
    features = e.features
    if features is None or e.grid.rows * e.grid.cols > MOST_CELLS:
        return None
    known = next((i for i, one in enumerate(found) if one is features), None)
    if known is not None:
        return known
    found.append(features)
    return len(found) - 1


def _map(values: Float[Tensor, "row col"] | Bool[Tensor, "row col"]) -> NDArray[np.generic]:
    return values.numpy().astype(np.uint8 if values.dtype is torch.bool else np.float32)


def _resized(values: NDArray[np.generic], size: tuple[int, int]) -> NDArray[np.generic]:
    """Labels or a mask, in the pixels of the page's image."""
    return np.asarray(Image.fromarray(values.astype(np.int32)).resize(size, Image.Resampling.NEAREST))


def _described(e: Evidence) -> dict[str, object]:
    return {"size": list(e.grid.image_size), "rows": e.grid.intervals(0), "cols": e.grid.intervals(1)}


def _thresholds(recipe: Recipe) -> dict[str, object]:
    """The alpha and beta of Eq. 4 in both stages, and how the page computes with them; None for what it draws as computed."""
    respond, refine = recipe.respond, recipe.refine
    own = isinstance(respond, Respond) and respond.fusion in RECOMPUTED
    return {
        "respond": {"fusion": respond.fusion, "alpha": respond.options["alpha"], "beta": respond.options["beta"]} if own else None,
        "refine": {"mask": refine.mask, "fallback": refine.fallback, "alpha": refine.alpha, "beta": refine.beta}
        if isinstance(refine, Refine)
        else None,
    }


def _notes(result: Result, features: int) -> list[str]:
    """What the sliders change, and what they cannot."""
    recipe = result.recipe
    known = _thresholds(recipe)
    if known["respond"] is None and known["refine"] is None:
        return ["The stages of this recipe are not the package's, so every map is drawn as it was computed."]
    maps = ["D", "D_f"] if known["respond"] else []
    maps += ["M^_f", "m_c"] if known["refine"] else []
    maps += ["M_v", "M_r"] if known["refine"] and features else []
    notes = [
        f"The sliders recompute {', '.join(maps)} here (Eq. 4 to 12). D~, A_v and M_A do not depend on alpha and beta. SAM does not run in a "
        "page: its masks, the prompts that it was given and the label map are drawn as they were computed."
    ]
    if known["respond"] is None:
        notes.append(f"The fusion {recipe.respond.fusion!r} needs the model, so D and D_f are drawn as they were computed.")
    if known["refine"] and not features and any(e.maps() for e in result.evidence.values()):
        notes.append("The features behind M_v are not in this page, so M_v and M_r are drawn as they were computed.")
    return notes
