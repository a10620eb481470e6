"""The rows of a calibration, bands of layers by alpha by beta, and the masks M_r of many rows at once.

The stages of a recipe take one alpha and one beta; a calibration has thousands of rows. The equations are the same (a test compares every
row's mask with that of the stages), with a leading axis for the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import torch
from attrs import field, frozen
from jaxtyping import Bool, Float
from torch import Tensor

from fseg.checks import check_number
from fseg.errors import InvalidOption
from fseg.fusion_methods.options import band
from fseg.recipe import Recipe
from fseg.stages.vgm import Refine

ALPHAS = (0.5, 0.6, 0.75, 0.85, 0.9, 0.95, 0.98)
BETAS = (0.05, 0.08, 0.1, 0.13, 0.16, 0.19, 0.22, 0.26, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
"""The values tried. The betas are denser where the paper's lie (0.16 and 0.19); alphas close to 1 separate the cells of a backbone whose
cosines are all high."""


@frozen
class Row:
    """One choice: a band of layers (first, last), both included, and the threshold of Eq. 4."""

    layers: tuple[int, int]
    alpha: float
    beta: float

    def __str__(self) -> str:
        return f"layers {self.layers[0]}-{self.layers[1]}, alpha {self.alpha:g}, beta {self.beta:g}"

    def of(self, recipe: Recipe, name: str) -> Recipe:
        """The recipe with this row's values, in both stages that have the threshold."""
        threshold = {f"{stage}.{key}": getattr(self, key) for stage in ("respond", "refine") for key in ("alpha", "beta")}
        return recipe.with_({"name": name, "respond.layers": self.layers, **threshold})


def layers_of(recipe: Recipe) -> tuple[int, int]:
    """The band of a recipe's fusion."""
    layers = band(recipe.respond.options["layers"])  # type: ignore[arg-type]  # the fusion has checked it
    return layers[0], layers[-1]


def _sorted_values(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(sorted(set(values)))


@frozen
class Thresholds:
    """The values of alpha and beta that are tried, each with each.

    Raises:
        InvalidOption: none of one of them, or a value outside 0..1 (alpha) or below 0 (beta).

    >>> len(Thresholds().pairs()), Thresholds((0.75,), (0.2, 0.1)).pairs()
    (112, [(0.75, 0.1), (0.75, 0.2)])
    """

    alphas: tuple[float, ...] = field(default=ALPHAS, converter=_sorted_values)
    betas: tuple[float, ...] = field(default=BETAS, converter=_sorted_values)

    def __attrs_post_init__(self) -> None:
        for name, values, most in (("alpha", self.alphas, 1), ("beta", self.betas, None)):
            if not values:
                raise InvalidOption(f"A calibration tries at least one {name}, and none was given.")
            for value in values:
                check_number(name, value, at_least=0, at_most=most)

    def pairs(self) -> list[tuple[float, float]]:
        """All pairs (alpha, beta)."""
        return list(product(self.alphas, self.betas))


def bands(layers: int) -> list[tuple[int, int]]:
    """All bands (first, last) of so many `hidden_states`.

    >>> bands(3)
    [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    """
    return [(first, last) for first in range(layers) for last in range(first, layers)]


def band_distance(distances: Float[Tensor, "name layer cell"], layers: tuple[int, int]) -> Float[Tensor, "name cell"]:
    """D~ of Eq. 3: the mean over a band of the distances of its layers."""
    return distances[:, layers[0] : layers[1] + 1].mean(1)


def thresholds(
    distance: Float[Tensor, "class cell"], attention: Bool[Tensor, "class cell"], alpha: Float[Tensor, " row"], beta: Float[Tensor, " row"]
) -> tuple[Float[Tensor, "row class"], Float[Tensor, " row"]]:
    """Eq. 4 of each class, and D_bg: Eq. 4 over the responses of all classes."""
    threshold = torch.minimum(alpha[:, None] * distance.amax(-1), beta[:, None])
    inside = torch.where(attention, distance, torch.zeros_like(distance)).amax(-1)
    largest = torch.where(inside > threshold, inside, torch.zeros_like(threshold)).amax(1)
    return threshold, torch.minimum(alpha * largest, beta)


def guides(
    distance: Float[Tensor, "class cell"],
    attention: Bool[Tensor, "class cell"],
    threshold: Float[Tensor, "row class"],
    background: Float[Tensor, " row"],
) -> Bool[Tensor, "row class cell"]:
    """m_c: where M^_f of Eq. 9 is the class. Ties go to the background, then to the lower class."""
    response = torch.where(distance > threshold[..., None], distance, torch.zeros_like(distance)) * attention  # Eq. 5 and 8
    rows, classes, cells = response.shape
    winner = torch.cat([background[:, None, None].expand(rows, 1, cells), response], 1).argmax(1)  # the first of equal maxima
    return winner[:, None] == torch.arange(1, classes + 1)[:, None]


def prototype_masks(gram: Float[Tensor, "cell cell"], guide: Bool[Tensor, "row class cell"]) -> Bool[Tensor, "row class cell"]:
    """M_v of Eq. 11.

    A cell's cosine to a prototype is that to the sum of the features on its side, so the scalar products of all pairs of cells suffice.
    """

    def cosine(side: Bool[Tensor, "row class cell"]) -> Float[Tensor, "row class cell"]:
        weights = side.float()
        products = weights @ gram  # of each cell and the sum; the norm of the cell's own feature is in both cosines
        length = (products * weights).sum(-1, keepdim=True).clamp(min=0).sqrt()
        return torch.where(side.any(-1, keepdim=True), products / length, torch.zeros_like(products))

    return (cosine(guide) > cosine(~guide)) & guide.any(-1, keepdim=True)


def refined_masks(
    distance: Float[Tensor, "class cell"],
    attention: Bool[Tensor, "class cell"],
    gram: Float[Tensor, "cell cell"],
    pairs: Sequence[tuple[float, float]],
    refine: Refine,
) -> Bool[Tensor, "row class cell"]:
    """M_r of Eq. 12 for each pair of alpha and beta.

    Args:
        distance, attention: D~ and M_A of the classes that are present.
        gram: the scalar products of the features of all pairs of cells.
        refine: says which mask M_r is; its own alpha and beta do not matter.
    """
    alpha, beta = torch.tensor(pairs, dtype=torch.float32).T
    threshold, background = thresholds(distance, attention, alpha, beta)
    # Rows of equal thresholds have equal masks, and are many: where beta is the smaller one, alpha does not matter.
    different, same = torch.unique(torch.cat([background[:, None], threshold], 1), dim=0, return_inverse=True)
    guide = guides(distance, attention, different[:, 1:], different[:, 0])
    if refine.mask == "M^_f":
        return guide[same]
    near = prototype_masks(gram, guide)
    refined = near if refine.mask == "M_v" else near & guide
    if refine.fallback:
        refined = torch.where(refined.any(-1, keepdim=True), refined, guide)
    return refined[same]
