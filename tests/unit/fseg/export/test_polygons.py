"""Polygons: they contain the centre of a pixel if the mask contains the pixel."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from shapely.geometry import shape

from fseg.export.polygons import polygons
from tests.unit.fseg.export.results import drawn, glyph_result, small

MASKS = {
    "one pixel": drawn("...", ".#."),
    "full": drawn("##", "##"),
    "ring": drawn("###", "#.#", "###"),
    "island": drawn("#####", "#...#", "#.#.#", "#...#", "#####"),
    "corners": drawn("#.#", ".#.", "#.#"),
    "hole at a corner": drawn("##..", "#.#.", "####"),
    "noise": np.random.default_rng(0).random((24, 31)) < 0.5,
}


def filled(area: shapely.Geometry, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centres a geometry contains."""
    x, y = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    shapely.prepare(area)
    return np.asarray(shapely.contains_xy(area, x, y))


def check(area: shapely.MultiPolygon, mask: NDArray[np.bool_]) -> None:
    assert area.is_valid
    assert area.area == mask.sum()
    np.testing.assert_array_equal(filled(area, mask.shape), mask)
    assert all(part.exterior.is_ccw and not any(ring.is_ccw for ring in part.interiors) for part in area.geoms)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_polygons_cover_exactly_the_pixels(mask: NDArray[np.bool_]) -> None:
    check(polygons(mask), mask)


@pytest.mark.parametrize("seed", range(6))
def test_the_polygons_of_a_scene_are_its_masks(seed: int) -> None:
    result = glyph_result(seed)
    read: Any = json.loads(json.dumps(result.to_geojson()))
    assert [feature["properties"]["name"] for feature in read["features"]] == list(result.present)
    for feature in read["features"]:
        mask = result.masks[feature["properties"]["name"]]
        check(shape(feature["geometry"]), mask)
        assert feature["properties"]["area"] == mask.sum()


def test_a_ring_is_one_polygon_with_a_hole_and_only_corners_are_vertices() -> None:
    (ring,) = polygons(MASKS["ring"]).geoms
    assert set(ring.exterior.coords) == {(0, 0), (3, 0), (3, 3), (0, 3)}
    assert [set(hole.coords) for hole in ring.interiors] == [{(1, 1), (2, 1), (2, 2), (1, 2)}]


def test_no_pixel_is_no_polygon_and_no_feature() -> None:
    assert polygons(drawn("...", "...")).is_empty
    assert small(cat=drawn("..."), dog=None).to_geojson() == {"type": "FeatureCollection", "features": []}


def test_a_feature_says_which_class_it_is() -> None:
    (feature,) = small(cat=None, dog=drawn("##")).to_geojson()["features"]  # type: ignore[attr-defined]
    assert feature["properties"] == {"name": "dog", "label": 2, "area": 2, "score": 0.75}
    assert feature["geometry"]["type"] == "MultiPolygon"
