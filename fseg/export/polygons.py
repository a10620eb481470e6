"""Polygons along the edges of pixels, and GeoJSON of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from fseg.export.masks import ClassMask, needed_package

if TYPE_CHECKING:
    import shapely


def polygons(mask: Bool[np.ndarray, "height width"]) -> shapely.MultiPolygon:
    """The pixels of a mask as polygons with holes, exactly: their area is the number of pixels.

    The pixel in row r and column c is the square from (x, y) = (c, r) to (c + 1, r + 1). Pixels that touch only at a corner belong to two
    polygons. Outer rings run counterclockwise in (x, y), holes clockwise, as GeoJSON has them.

    Raises:
        PackageNeeded: shapely is not installed.

    >>> covered = polygons(np.array([[True, True, False]]))
    >>> covered.area, covered.bounds
    (2.0, (0.0, 0.0, 2.0, 1.0))
    """
    shapely = needed_package("shapely", "A mask's polygons")
    orient = needed_package("shapely.geometry.polygon", "A mask's polygons").orient
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (rows, starts), (_, ends) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    # A union keeps a vertex wherever two runs met; those on a straight line are dropped, which moves nothing at a tolerance of 0.
    joined = shapely.union_all(shapely.box(starts, rows, ends, rows + 1)).simplify(0)
    return shapely.MultiPolygon([orient(part) for part in shapely.get_parts(joined)])


def feature_collection(masks: Iterable[ClassMask]) -> dict[str, object]:
    """A GeoJSON feature for each mask, as `Result.to_geojson` describes it.

    Raises:
        PackageNeeded: shapely is not installed.
    """
    mapping = needed_package("shapely.geometry", "GeoJSON").mapping
    features = [
        {
            "type": "Feature",
            "geometry": mapping(polygons(one.mask)),
            "properties": {"name": one.name, "label": one.label, "area": one.area, "score": one.score},
        }
        for one in masks
    ]
    return {"type": "FeatureCollection", "features": features}
