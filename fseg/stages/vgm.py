"""Visual Generation (paper, section 3.4): prototypes of the vision tower refine the responses into masks, Eq. 9 to 12."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

import probe
from fseg.checks import flag, number, one_of, whole
from fseg.errors import NoMap
from fseg.evidence import Evidence

MASKS = ("M_v", "M^_f", "both")


def background_response(responses: Float[Tensor, "class row col"], alpha: float, beta: float) -> Float[Tensor, ""]:
    """D_f^bg: a share of the peak over all classes and cells, but never above `beta`."""
    return (alpha * responses.max()).clamp(max=beta)


def guidance(responses: Float[Tensor, "class row col"], background: Float[Tensor, ""]) -> Int[Tensor, "row col"]:
    """M^_f of Eq. 9: 0 where the background wins, i + 1 where class i does. Ties go to the background, then to the lower class."""
    every = torch.cat([background.expand(1, *responses.shape[1:]), responses])
    return every.argmax(0)  # the first of equal maxima


def prototypes(
    features: Float[Tensor, "row col feature"], guide: Bool[Tensor, "row col"], epsilon: float = 1e-6
) -> tuple[Float[Tensor, " feature"], Float[Tensor, " feature"]]:
    """p+ and p- of Eq. 10: the mean feature inside the guide, and outside it; zeros for a side without a cell, whatever epsilon is."""
    return _mean(features, guide, epsilon), _mean(features, ~guide, epsilon)


def _mean(features: Float[Tensor, "row col feature"], cells: Bool[Tensor, "row col"], epsilon: float) -> Float[Tensor, " feature"]:
    total = (features * cells[..., None]).sum((0, 1))
    # Without a cell, 0 / epsilon is 0 however small epsilon is, so that this is the value of 0 / 0.
    return total / (cells.sum() + epsilon) if cells.any() else total


def prototype_mask(
    features: Float[Tensor, "row col feature"], guide: Bool[Tensor, "row col"], epsilon: float = 1e-6
) -> Bool[Tensor, "row col"]:
    """M_v of Eq. 11: the cells whose feature is closer, by cosine, to the mean inside the guide than to the mean outside it.

    Nothing inside the guide: no prototype, and an empty mask. Nothing outside it: p- is 0, and so is every cosine to it.
    """
    if not guide.any():
        return torch.zeros_like(guide)
    inside, outside = prototypes(features, guide, epsilon)
    return torch.cosine_similarity(features, inside, dim=-1) > torch.cosine_similarity(features, outside, dim=-1)


def _on_grid(features: Float[Tensor, "patch_row patch_col feature"], grid: tuple[int, int]) -> Float[Tensor, "row col feature"]:
    """Patch features as cell features: the mean of the patches that a family merges into one image token, or the patch itself.

    Raises:
        NoMap: the patches are no whole number to a cell, so that they lie elsewhere than the cells.
    """
    patches = (features.shape[0], features.shape[1])
    if any(count % cells for count, cells in zip(patches, grid, strict=True)):
        raise NoMap(
            f"The vision tower has {patches[0]} x {patches[1]} patches, which do not lie on the {grid[0]} x {grid[1]} image tokens, so that "
            "their features cannot refine a response. Use a model that keeps all patches of its tower."
        )
    return torch.nn.functional.adaptive_avg_pool2d(features.permute(2, 0, 1), grid).permute(1, 2, 0)


@dataclass(frozen=True)
class Refine:
    """The third stage, which sees all classes of an image at once.

    Attributes:
        mask: what M_r is (Table 6): "M_v", "M^_f" (the class's guide alone), or "both" (Eq. 12).
        alpha, beta: of the background response; the paper uses those of Eq. 4. alpha lies in 0..1; beta is at least 0, and has no upper
            limit, since the responses of a fusion of one's own may be of any scale.
        vision_layer: whose features the prototypes are made of, a `hidden_states` index of the tower.
        epsilon: of Eq. 10, from 0 to 1.
        fallback: take the guide where M_r is empty.
    """

    mask: str = "both"
    alpha: float = 0.75
    beta: float = 0.19
    vision_layer: int = -2
    epsilon: float = 1e-6
    fallback: bool = False

    def __post_init__(self) -> None:
        one_of("refine.mask", self.mask, MASKS)
        number("refine.alpha", self.alpha, at_least=0, at_most=1)
        number("refine.beta", self.beta, at_least=0)
        whole("refine.vision_layer", self.vision_layer)
        number("refine.epsilon", self.epsilon, at_least=0, at_most=1)
        flag("refine.fallback", self.fallback)

    def reads(self) -> list[probe.Read]:
        """What the model has to be read for."""
        return [probe.Vision(layers=(self.vision_layer,))]

    def __call__(self, evidence: Sequence[Evidence]) -> list[Evidence]:
        """The evidence of all classes, those that have a response with `guide`, `prototype_mask` and `refined`.

        Flags: "suppressed" where Eq. 9 leaves a class no cell, "fallback" where M_r was empty and the guide was taken.
        """
        responses = {place: e.response for place, e in enumerate(evidence) if e.response is not None}
        refined = list(evidence)
        if responses:
            stacked = torch.stack(list(responses.values()))
            winner = guidance(stacked, background_response(stacked, self.alpha, self.beta))
            for number_of_class, place in enumerate(responses, start=1):
                refined[place] = self._refine(evidence[place], winner == number_of_class)
        return refined

    def _refine(self, e: Evidence, guide: Bool[Tensor, "row col"]) -> Evidence:
        features = _on_grid(e.scoped(self.reads()).vision().cpu(), e.grid)
        near = prototype_mask(features, guide, self.epsilon)
        refined = {"M_v": near, "M^_f": guide, "both": near & guide}[self.mask]
        flags = [] if guide.any() else ["suppressed"]
        if self.fallback and guide.any() and not refined.any():
            refined = guide
            flags.append("fallback")
        return replace(e, guide=guide, prototype_mask=near, refined=refined).flagged(*flags)
