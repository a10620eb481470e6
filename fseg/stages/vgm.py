"""Visual Generation (paper, section 3.4): prototypes of the vision tower's features refine the responses into masks, Eq. 9 to 12."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from attrs import field, frozen
from jaxtyping import Bool, Float, Int
from torch import Tensor

import probe
from fseg.checks import check_bool, check_choice, check_int, check_number, checked
from fseg.evidence import Evidence
from fseg.fusion_methods.distance import ALPHA, BETA, dynamic_threshold

MASKS = ("M_v", "M^_f", "both")
FEATURES = ("vision", "projected")


def guidance(responses: Float[Tensor, "class row col"], background: Float[Tensor, ""]) -> Int[Tensor, "row col"]:
    """M^_f of Eq. 9: 0 where the background wins, i + 1 where class i does. Ties go to the background, then to the lower class."""
    every = torch.cat([background.expand(1, *responses.shape[1:]), responses])
    return every.argmax(0)  # the first of equal maxima


def prototypes(
    features: Float[Tensor, "row col feature"], guide: Bool[Tensor, "row col"], epsilon: float = 1e-6
) -> tuple[Float[Tensor, " feature"], Float[Tensor, " feature"]]:
    """p+ and p- of Eq. 10: the mean feature inside the guide, and outside it; zeros for a side that has no cell."""
    return _mean(features, guide, epsilon), _mean(features, ~guide, epsilon)


def _mean(features: Float[Tensor, "row col feature"], cells: Bool[Tensor, "row col"], epsilon: float) -> Float[Tensor, " feature"]:
    total = (features * cells[..., None]).sum((0, 1))
    # Where there is no cell, 0 / (0 + epsilon) is 0 for every epsilon > 0; epsilon = 0 gives the same.
    return total / (cells.sum() + epsilon) if cells.any() else total


def prototype_mask(
    features: Float[Tensor, "row col feature"], guide: Bool[Tensor, "row col"], epsilon: float = 1e-6
) -> Bool[Tensor, "row col"]:
    """M_v of Eq. 11: the cells whose feature is closer, by cosine, to the mean inside the guide than to the mean outside it.

    An empty guide has no prototype and gives an empty mask. If the guide covers every cell, p- is 0, and so is every cosine to it.
    """
    if not guide.any():
        return torch.zeros_like(guide)
    inside, outside = prototypes(features, guide, epsilon)
    return torch.cosine_similarity(features, inside, dim=-1) > torch.cosine_similarity(features, outside, dim=-1)


@frozen
class Refine:
    """The refine stage (VGM); it processes all classes of an image together.

    Attributes:
        mask: what M_r is (Table 6): "M_v", "M^_f" (the class's guide alone), or "both" (Eq. 12).
        alpha, beta: of the background response D_bg, which is Eq. 4's threshold over all classes. In a recipe they change with those of the
            respond stage (see `Recipe.with_`). alpha lies in 0..1; beta is at least 0, without an upper limit, because a fusion of your own
            may return responses of any scale.
        features: what makes the prototypes: "vision", the tower's patches, or "projected", the image tokens as the language model receives
            them, in families whose patches are not known to lie on the image.
        vision_layer: the layer of the patches, a `hidden_states` index of the vision tower.
        epsilon: of Eq. 10, from 0 to 1.
        fallback: use the guide where M_r is empty.

    >>> Refine(mask="M_v").reads()
    [Vision(layers=(-2,))]
    """

    mask: str = field(default="both", validator=checked(check_choice, MASKS))
    alpha: float = field(default=ALPHA, validator=checked(check_number, at_least=0, at_most=1))
    beta: float = field(default=BETA, validator=checked(check_number, at_least=0))
    features: str = field(default="vision", validator=checked(check_choice, FEATURES))
    vision_layer: int = field(default=-2, validator=checked(check_int))
    epsilon: float = field(default=1e-6, validator=checked(check_number, at_least=0, at_most=1))
    fallback: bool = field(default=False, validator=checked(check_bool))

    def reads(self) -> list[probe.Read]:
        """The activations that this stage needs."""
        return [probe.Vision(layers=(self.vision_layer,)) if self.features == "vision" else probe.Projected()]

    def __call__(self, evidence: Sequence[Evidence]) -> list[Evidence]:
        """The evidence of all classes; those that have a response get `guide`, `features`, `prototype_mask` and `refined`.

        Flags: "suppressed" where Eq. 9 leaves a class no cell, "fallback" where M_r was empty and the guide was used.
        """
        responses = {index: e.response for index, e in enumerate(evidence) if e.response is not None}
        refined = list(evidence)
        if responses:
            stacked = torch.stack(list(responses.values()))
            background = dynamic_threshold(stacked, self.alpha, self.beta)
            winner = guidance(stacked, background)
            known: list[tuple[Evidence, Tensor]] = []
            for label, index in enumerate(responses, start=1):
                e = evidence[index]
                features = next((one for other, one in known if self._has_features_of(e, other)), None)
                if features is None:
                    features = self.cell_features(e)
                    known.append((e, features))
                refined[index] = self._refine(e, features, winner == label)
        return refined

    def cell_features(self, e: Evidence) -> Float[Tensor, "row col feature"]:
        """The features that make the prototypes, on the cells of the evidence's grid, float32 on the CPU."""
        own = e.scoped(self.reads())
        return (own.vision_on_grid() if self.features == "vision" else own.projected_on_grid()).cpu()

    def _has_features_of(self, e: Evidence, other: Evidence) -> bool:
        """Whether two classes have the same features: the traces of one session share what they read of the image."""
        if e.trace is None or other.trace is None or (e.grid, e.views) != (other.grid, other.views):
            return False
        own, theirs = (list(_read_of_image(trace, self.features)) for trace in (e.trace, other.trace))
        return len(own) == len(theirs) > 0 and all(one is another for one, another in zip(own, theirs, strict=True))

    def _refine(self, e: Evidence, features: Float[Tensor, "row col feature"], guide: Bool[Tensor, "row col"]) -> Evidence:
        near = prototype_mask(features, guide, self.epsilon)
        refined = {"M_v": near, "M^_f": guide, "both": near & guide}[self.mask]
        flags = [] if guide.any() else ["suppressed"]
        if self.fallback and guide.any() and not refined.any():
            refined = guide
            flags.append("fallback")
        return replace(e, guide=guide, features=features, prototype_mask=near, refined=refined).flagged(*flags)


def _read_of_image(trace: probe.Trace, features: str) -> Iterator[Tensor]:
    """The tensors that the features come from, as they were captured."""
    if features == "vision":
        yield from trace.captured.vision.values()
        return
    for (address, at), rows in trace.captured.states.items():
        if address.layer == 0 and at == "image":
            yield from rows
