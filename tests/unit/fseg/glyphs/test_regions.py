"""Scenes of textures: every pixel has a class, and each texture looks like what it is called."""

from __future__ import annotations

import numpy as np
import pytest

from fseg.errors import InvalidOption
from fseg.glyphs.regions import REGION_CLASSES, regions
from fseg.worlds.textures import TEXTURES, texture


def test_the_same_seed_gives_the_same_scene_and_another_seed_another() -> None:
    first, again, other = regions(3), regions(3), regions(4)
    assert first.image.tobytes() == again.image.tobytes()
    assert np.array_equal(first.labels, again.labels)
    assert first.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("seed", range(8))
def test_two_or_three_textures_share_the_image_with_glyphs_on_them(seed: int) -> None:
    shown = regions(seed, size=(120, 160))
    assert shown.labels.shape == (120, 160)
    assert {REGION_CLASSES[label - 1] for label in np.unique(shown.labels)} == set(shown.classes)
    textures = [name for name in shown.classes if name in TEXTURES]
    assert 2 <= len(textures) <= 3
    assert [thing.index + len(TEXTURES) for thing in shown.things] == [
        REGION_CLASSES.index(name) for name in shown.classes if name not in TEXTURES
    ]


def test_every_texture_has_a_colour_of_its_own() -> None:
    means = {name: texture(name, np.random.default_rng(0), 96, 128).mean((0, 1)) for name in TEXTURES}
    assert means["sky"].argmax() == 2
    assert means["grass"].argmax() == 1
    assert means["brick"].argmax() == 0
    assert means["water"].argmin() == 0
    assert means["sand"].min() > 100


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InvalidOption, match="seed=-1: scenes are numbered from 0"):
        regions(-1)
