"""The toy world's scenes, and the words that are said of them."""

from __future__ import annotations

import numpy as np
import pytest

from fseg.errors import InvalidOption
from fseg.glyphs import CLASSES, scene
from fseg.glyphs.font import GLYPHS, glyph, posed
from fseg.glyphs.scenes import PHOTOGRAPHS, Scene, Thing
from fseg.glyphs.training.corpus import measured
from fseg.glyphs.training.text import colour_word, description, position_phrase, size_word

SPECIFIED = [
    "airplane",
    "umbrella",
    "cat",
    "cow",
    "mouse",
    "monkey",
    "star",
    "heart",
    "sun",
    "cloud",
    "snowman",
    "telephone",
    "cup",
    "skull",
    "horse",
    "anchor",
    "gear",
    "flag",
    "scissors",
    "envelope",
]


def test_every_class_holds_its_plain_name_as_a_word() -> None:
    assert len(CLASSES) == 20
    assert all(plain in name.split() for plain, name in zip(SPECIFIED, CLASSES, strict=True))
    assert any(" " in name for name in CLASSES)


def test_the_same_seed_gives_the_same_scene() -> None:
    first, second = scene(5), scene(5)
    assert first.image.tobytes() == second.image.tobytes()
    assert np.array_equal(first.labels, second.labels)
    assert first.classes == second.classes


def test_the_splits_share_neither_scenes_nor_photographs() -> None:
    assert not set(PHOTOGRAPHS["train"]) & set(PHOTOGRAPHS["held-out"])
    assert scene(5, "train", (120, 120)).image.tobytes() != scene(5, "held-out", (120, 120)).image.tobytes()


def test_an_unknown_split_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="'train', 'held-out'"):
        scene(0, "test")  # type: ignore[arg-type]


def test_a_size_is_height_then_width() -> None:
    made = scene(1, size=(150, 230))
    assert made.image.size == (230, 150)
    assert made.labels.shape == (150, 230)
    assert made.labels.dtype == np.int64


def test_sizes_are_drawn_between_112_and_512() -> None:
    shapes = [scene(seed).labels.shape for seed in range(12)]
    assert all(112 <= side <= 512 for shape in shapes for side in shape)
    assert len(set(shapes)) > 6


def test_classes_are_the_labels_that_are_there() -> None:
    for seed in range(12):
        made = scene(seed)
        assert made.classes == tuple(CLASSES[label - 1] for label in np.unique(made.labels) if label)
        assert 1 <= len(made.classes) <= 4


def test_labels_lie_where_the_glyph_is() -> None:
    """Wherever the label says so, the picture has a colour of that glyph, but for its blended edge."""
    made = scene(3, size=(256, 256))
    pixels = np.asarray(made.image).astype(int)
    for thing in made.things:
        inside = pixels[made.labels == thing.index + 1]
        near = [np.abs(inside - colour).max(1) <= 2 for colour in (thing.fill, thing.ink)]
        assert (near[0] | near[1]).mean() > 0.6


def test_holes_of_a_glyph_belong_to_its_mask() -> None:
    envelope = glyph("paper envelope", 80)
    solid, ink = np.asarray(envelope.solid), np.asarray(envelope.ink)
    assert (solid >= 128).mean() > 0.97
    assert (ink >= 128).mean() < 0.75


def test_no_glyph_is_missing_from_the_font() -> None:
    outlines = {np.asarray(glyph(name, 48).ink.resize((32, 32))).tobytes() for name in GLYPHS}
    assert len(outlines) == 20


def test_a_quarter_turn_exchanges_height_and_width() -> None:
    upright, turned = posed("airplane", 60, 0, False), posed("airplane", 60, 90, False)
    assert turned.solid.width == pytest.approx(upright.solid.height, abs=2)
    assert turned.solid.height == pytest.approx(upright.solid.width, abs=2)


@pytest.mark.parametrize(
    ("rgb", "word"),
    [((255, 0, 0), "red"), ((0, 0, 255), "blue"), ((250, 250, 250), "white"), ((0, 0, 0), "black"), ((125, 130, 128), "grey")],
)
def test_colours_have_their_usual_names(rgb: tuple[int, int, int], word: str) -> None:
    assert colour_word(np.array(rgb, dtype=np.float32)) == word


def test_places_are_named_by_the_centre() -> None:
    assert position_phrase(0.2, 0.2) == "at the top left"
    assert position_phrase(0.5, 0.9) == "at the bottom"
    assert position_phrase(0.9, 0.5) == "on the right"
    assert position_phrase(0.5, 0.5) == "in the centre"


def test_sizes_are_named_by_the_share_of_the_picture() -> None:
    assert [size_word(area) for area in (0.01, 0.05, 0.2)] == ["small", "medium", "large"]


def test_the_description_is_true_of_the_scene() -> None:
    """A red heart that fills rows 0 to 24 and columns 60 to 99 of 100 x 100: 10 % of the picture, at the top right."""
    labels = np.zeros((100, 100), dtype=np.int64)
    labels[0:25, 60:100] = CLASSES.index("heart") + 1
    heart = Thing(CLASSES.index("heart"), fill=(0, 255, 0), ink=(255, 0, 0), stroke=1.0)
    row = measured(Scene(scene(0).image, labels, ("heart",), (heart,)))[0]
    assert row[8:].tolist() == pytest.approx([0.8, 0.125, 0.25, 0.1])
    assert description("heart", row) == "The heart is large and red, at the top right."


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InvalidOption, match="seed=-1: scenes are numbered from 0"):
        scene(-1)
