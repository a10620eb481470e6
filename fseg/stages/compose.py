"""The label map: one label for each pixel, where masks overlap and where there is none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import field, frozen
from jaxtyping import Float, Int64
from torch import Tensor

from fseg.checks import check_choice, checked
from fseg.errors import InvalidClasses, NoMap
from fseg.evidence import Evidence
from fseg.labels.values import BACKGROUND, IGNORED
from probe.tracing.activation.pixels import upsample

FILLS = ("background", "none", "argmax_response")
RESAMPLES = ("bilinear", "bicubic", "nearest")


def _relevance(e: Evidence) -> Float[Tensor, "row col"]:
    """The map that weighs the mask of a class."""
    if e.relevance is None:
        raise NoMap(f"{e.name} has no response map to weigh its mask by: run the respond stage on it first.")
    return e.relevance


@frozen
class Compose:
    """The compose stage.

    Attributes:
        fill: the label of pixels without a mask: "background" (0), or, for data sets in which every pixel has a class, "none" (255) or
            "argmax_response" (the class whose D~, at the size of the image, is largest there).
        resample: the filter by which D~ gets the size of the image: "bilinear", "bicubic" or "nearest".

    >>> Compose("argmax_response")
    Compose(fill='argmax_response', resample='bilinear')
    """

    fill: str = field(default="background", validator=checked(check_choice, FILLS))
    resample: str = field(default="bilinear", validator=checked(check_choice, RESAMPLES))

    def __call__(
        self,
        evidence: Sequence[Evidence],
        logits: Sequence[Float[Tensor, "height width"] | None],
        image_size: tuple[int, int],
        indices: Sequence[int],
    ) -> Int64[Tensor, "height width"]:
        """For each pixel, of the classes whose mask covers it, the one with the largest sigmoid(logit) * D~.

        D~ is resized to the image, and its negative values are set to 0. Ties go to the class that comes first.

        Args:
            evidence: the classes that have a response.
            logits: SAM's logits for each, above 0 inside its mask; None for a class without a mask.
            image_size: (height, width) of the image in pixels.
            indices: the position of each of these classes in the user's list, from 0.

        Returns:
            on the CPU: 0 background, i + 1 for class i of the user's list, 255 where `fill` leaves a pixel without a class.

        Raises:
            InvalidClasses: `fill` is not "background" and a class has the label 255, too.
        """
        if self.fill != "background" and IGNORED - 1 in indices:
            raise InvalidClasses(
                f'compose.fill="{self.fill}" marks pixels without a class with {IGNORED}, which is the label of class number '
                f'{IGNORED} as well. Ask for at most {IGNORED - 1} classes, or use compose.fill="background".'
            )
        labels = torch.full(image_size, BACKGROUND if self.fill == "background" else IGNORED, dtype=torch.int64)
        if self.fill == "argmax_response":
            self._paint_largest(labels, evidence, indices)
        # A running argmax: the scores of 171 classes at full image size would not fit into memory together.
        best = torch.full(image_size, -1.0)
        for e, logit, index in zip(evidence, logits, indices, strict=True):
            if logit is None:
                continue
            logit = logit.float().cpu()
            score = logit.sigmoid() * self._upsampled(e).clamp(min=0)
            wins = (logit > 0) & (score > best)
            best[wins] = score[wins]
            labels[wins] = index + 1
        return labels

    def _paint_largest(self, labels: Int64[Tensor, "height width"], evidence: Sequence[Evidence], indices: Sequence[int]) -> None:
        best = torch.full(labels.shape, float("-inf"))
        for e, index in zip(evidence, indices, strict=True):
            relevance = self._upsampled(e)
            wins = relevance > best
            best[wins] = relevance[wins]
            labels[wins] = index + 1

    def _upsampled(self, e: Evidence) -> Float[Tensor, "height width"]:
        return upsample(_relevance(e), e.grid, self.resample)
