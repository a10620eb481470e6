"""COCO: masks as run-length encodings, and the file of a whole data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fseg.export.masks import ClassMask, needed_package


def encoded_masks(masks: Iterable[ClassMask], image_id: int) -> list[dict[str, object]]:
    """An annotation for each mask, as `Result.to_coco` describes it.

    Raises:
        PackageNeeded: pycocotools is not installed.
    """
    codec = needed_package("pycocotools.mask", "COCO's encoding of masks")
    made = []
    for one in masks:
        encoded = codec.encode(np.asfortranarray(one.mask, dtype=np.uint8))
        made.append(
            {
                "image_id": image_id,
                "category_id": one.label,
                "segmentation": {"size": list(one.mask.shape), "counts": encoded["counts"].decode("ascii")},
                "bbox": codec.toBbox(encoded).tolist(),
                "area": one.area,
                "iscrowd": 0,
                "score": one.score,
            }
        )
    return made


def dataset(classes: Sequence[str], images: Mapping[str, tuple[int, int]], annotated: Iterable[Mapping[str, object]]) -> dict[str, object]:
    """The content of a COCO file, which `pycocotools.coco.COCO` and supervision read.

    Args:
        classes: the names, in the order of the results' `classes`.
        images: file name -> (height, width) in pixels. The first has the `image_id` 1, the second 2, and so on.
        annotated: what `Result.to_coco` returned for each image, one list after another.

    Returns:
        images, annotations (numbered from 1) and categories (numbered from 1, in the order of `classes`), as plain values.

    >>> described = dataset(["cat"], {"street.jpg": (480, 640)}, [{"image_id": 1, "category_id": 1}])
    >>> described["images"]
    [{'id': 1, 'file_name': 'street.jpg', 'height': 480, 'width': 640}]
    >>> described["annotations"], described["categories"]
    ([{'id': 1, 'image_id': 1, 'category_id': 1}], [{'id': 1, 'name': 'cat'}])
    """
    return {
        "images": [
            {"id": number, "file_name": name, "height": height, "width": width}
            for number, (name, (height, width)) in enumerate(images.items(), 1)
        ],
        "annotations": [{"id": number, **one} for number, one in enumerate(annotated, 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)],
    }
