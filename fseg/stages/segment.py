"""The SAM stage: from a class's points and box to its mask (Eq. 13)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from attrs import field, frozen
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from fseg.checks import check_bool, check_choice, check_text, checked
from fseg.errors import InvalidSam
from fseg.evidence import STUFF, Evidence
from fseg.sam.base import MULTIMASKS, AnySam, Multimask, SamMask, SamPrompt
from probe.errors import NotFinite
from probe.tracing.activation.pixels import upsample


@frozen
class Sam:
    """M_sam = SAM(image | points, box), one prompt for each class (Eq. 13).

    Attributes:
        checkpoint: a hub id, a folder, a file, or the name of an embedded world, as `fseg.sam.loading.load_sam` takes it.
        multimask: "off": the single mask; "on": the alternative of the highest predicted IoU; "auto": the single mask for a box or for two
            or more points, and the best alternative otherwise.
        refine: ask SAM a second time, with the logits of its first mask beside the points and the box, for a single mask.
        negatives: for stuff (see `Prompt.stuff_share`), the points of the other classes are negative points.
        unite: for stuff, the mask also covers M_r at the size of the image, its edges interpolated.

    >>> Sam("facebook/sam-vit-base").multimask
    'auto'
    """

    checkpoint: str = field(default="facebook/sam-vit-huge", validator=checked(check_text))
    multimask: Multimask = field(default="auto", validator=checked(check_choice, MULTIMASKS))
    refine: bool = field(default=False, validator=checked(check_bool))
    negatives: bool = field(default=False, validator=checked(check_bool))
    unite: bool = field(default=False, validator=checked(check_bool))

    def __call__(
        self, sam: AnySam, image: Image.Image, evidence: Sequence[Evidence]
    ) -> tuple[list[Evidence], list[Float[Tensor, "height width"] | None]]:
        """Segment each class that has a point or a box. The image is encoded once, and not at all if no class has either.

        Args:
            sam: from `fseg.sam.loading.load_sam`, or any `Promptable`.
            image: the original, RGB: points and boxes are pixels of it.
            evidence: one entry a class, with `points` and `box`.

        Returns:
            The evidence in the same order, with `score`, the IoU that SAM predicts for its mask, and `negatives`; and for each entry
            float32 logits of the image's size (mask: above 0), or None for a class without a prompt.

        Raises:
            InvalidPrompt: a point or a box lies outside the image.
            InvalidSam: a SAM of one's own does not return one `SamMask` for each prompt, in the image's size.
            NotFinite: a mask or its score is not finite.
        """
        evidence = self._with_negatives(evidence)
        prompted = [index for index, e in enumerate(evidence) if e.points or e.box is not None]
        prompts = [SamPrompt(e.points, e.box, self.multimask, self.refine, e.negatives) for e in (evidence[index] for index in prompted)]
        made = _checked_masks(sam, sam.masks(sam.embed(image), prompts), len(prompts), (image.height, image.width)) if prompts else []
        masks = dict(zip(prompted, made, strict=True))
        for index, mask in masks.items():
            if not (math.isfinite(mask.score) and mask.logits.isfinite().all()):
                raise NotFinite(
                    f"SAM computed NaN or infinity for {evidence[index].name!r}, which is no mask. Load it in float32, or other weights."
                )
        scored = [replace(e, score=masks[index].score) if index in masks else e for index, e in enumerate(evidence)]
        logits = [masks[index].logits if index in masks else None for index in range(len(evidence))]
        return scored, [self._united(e, own) for e, own in zip(evidence, logits, strict=True)]

    def _with_negatives(self, evidence: Sequence[Evidence]) -> list[Evidence]:
        """The evidence, that of stuff with the points of the other classes."""
        if not self.negatives:
            return list(evidence)
        others = [tuple(point for other in evidence if other is not e for point in other.points) for e in evidence]
        return [replace(e, negatives=points) if STUFF in e.flags else e for e, points in zip(evidence, others, strict=True)]

    def _united(self, e: Evidence, logits: Float[Tensor, "height width"] | None) -> Float[Tensor, "height width"] | None:
        """SAM's logits, or those of M_r as a probability where they are larger: above 0 where interpolated M_r is above a half."""
        if not self.unite or logits is None or STUFF not in e.flags or e.refined is None:
            return logits
        return torch.maximum(logits, upsample(e.refined.float(), e.grid).logit(eps=1e-6))


def _checked_masks(sam: AnySam, masks: object, count: int, size: tuple[int, int]) -> list[SamMask]:
    """The masks of a SAM, which may be the user's own.

    Raises:
        InvalidSam: not one mask for each prompt, or a mask of another size.
    """
    name = f"{type(sam).__name__}.masks()"
    if not isinstance(masks, (list, tuple)) or not all(isinstance(mask, SamMask) for mask in masks):
        raise InvalidSam(f"{name} returned a {type(masks).__name__}. It returns a list of fseg.sam.base.SamMask, one for each prompt.")
    if len(masks) != count:
        raise InvalidSam(f"{name} returned {len(masks)} masks for {count} prompts. It returns one for each prompt, in order.")
    for mask in masks:
        if tuple(mask.logits.shape) != size:
            raise InvalidSam(
                f"{name} returned logits of shape {tuple(mask.logits.shape)} for an image of {size[0]} x {size[1]} pixels (height x width). "
                "Resize them to the image."
            )
    return list(masks)
