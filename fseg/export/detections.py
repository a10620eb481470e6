"""supervision's detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fseg.export.masks import ClassMask, needed_package

if TYPE_CHECKING:
    import supervision


def detections(masks: Sequence[ClassMask], image_size: tuple[int, int]) -> supervision.Detections:
    """The masks as supervision holds them, as `Result.to_detections` describes it.

    Args:
        image_size: (height, width) in pixels, which masks that are none have, too.

    Raises:
        PackageNeeded: supervision is not installed.
    """
    package = needed_package("supervision", "to_detections()")
    stacked = np.stack([one.mask for one in masks]) if masks else np.zeros((0, *image_size), dtype=np.bool_)
    scores = [one.score for one in masks]
    return package.Detections(
        xyxy=package.mask_to_xyxy(stacked).astype(np.float32),
        mask=stacked,
        confidence=None if None in scores else np.array(scores, dtype=np.float32),
        class_id=np.array([one.label - 1 for one in masks], dtype=np.int64),
        data={"class_name": np.array([one.name for one in masks], dtype=np.str_)},
    )
