"""What is said of a sticker is true, and what is not true is found out."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fseg.stickers import CLASSES, Scene, Thing, describe, judged, scene
from fseg.stickers.descriptions import with_article


def placed(*things: tuple[str, tuple[int, int, int, int]]) -> Scene:
    """A scene of 100 x 200 pixels with a full rectangle for each class."""
    labels = np.zeros((100, 200), dtype=np.int64)
    found = []
    for name, (left, top, right, bottom) in things:
        index = CLASSES.index(name)
        labels[top:bottom, left:right] = index + 1
        found.append(Thing(index, "noto", (left, top, right, bottom), (right - left) * (bottom - top)))
    found.sort(key=lambda thing: thing.index)
    return Scene(Image.new("RGB", (200, 100)), labels, tuple(thing.name for thing in found), tuple(found))


CAR_AND_DOG = placed(("car", (10, 60, 30, 80)), ("dog", (10, 0, 50, 50)))  # 2 % and 10 % of the image


def test_a_description_has_size_place_and_neighbour() -> None:
    assert describe(CAR_AND_DOG, "car") == "It is small, at the bottom left, below a dog."
    assert describe(CAR_AND_DOG, "dog") == "It is large, at the top left, above a car."


def test_a_sticker_alone_has_no_neighbour() -> None:
    assert describe(placed(("cat", (80, 30, 120, 70))), "cat") == "It is large, in the centre."


def test_the_neighbour_is_the_nearest_that_can_be_seen() -> None:
    shown = placed(("cup", (0, 40, 20, 60)), ("cow", (60, 40, 100, 60)), ("bus", (150, 40, 200, 60)), ("apple", (22, 48, 26, 52)))
    assert describe(shown, "cup").endswith("left of a cow.")  # the apple covers less than 1 % of the image


def test_articles_fit_the_neighbour() -> None:
    assert [with_article(name) for name in ("apple", "dog", "scissors")] == ["an apple", "a dog", "scissors"]
    assert describe(placed(("cat", (0, 40, 20, 60)), ("apple", (60, 40, 80, 60))), "cat").endswith(", left of an apple.")


def test_descriptions_are_true_of_the_labels() -> None:
    """Judged from the labels alone, by what the words mean."""
    checked = 0
    for seed in range(60):
        shown = scene(seed, size=(120, 160))
        for name in shown.classes:
            text = describe(shown, name)
            y, x = np.nonzero(shown.labels == CLASSES.index(name) + 1)
            area, middle = len(x) / shown.labels.size, ((x.min() + x.max() + 1) / 2 / 160, (y.min() + y.max() + 1) / 2 / 120)
            assert ("small" in text) == (area < 0.025)
            assert ("large" in text) == (area >= 0.08)
            place = text.split(", ")[1]
            assert ("left" in place) == (middle[0] < 0.38)
            assert ("bottom" in place) == (middle[1] > 0.62)
            other = next((other for other in shown.classes if text.endswith(f" {other}.")), None)
            if other is None:
                continue
            v, u = np.nonzero(shown.labels == CLASSES.index(other) + 1)
            across, down = middle[0] * 160 - (u.min() + u.max() + 1) / 2, middle[1] * 120 - (v.min() + v.max() + 1) / 2
            said = text.split(", ")[2]
            assert (
                said.startswith("left of" if across < 0 else "right of")
                if abs(across) >= abs(down)
                else said.startswith("above" if down < 0 else "below")
            )
            checked += 1
    assert checked > 60


@pytest.mark.parametrize(
    ("sentence", "true"),
    [
        ("It is small, at the bottom left, below a dog.", (True, True, True)),
        ("It is large, at the bottom left, below a dog.", (False, True, True)),
        ("It is medium, at the bottom left, below a dog.", (True, True, True)),  # 2 % is near the border at 2.5 %
        ("It is small, on the right, below a dog.", (True, False, True)),
        ("It is small, at the bottom left, above a dog.", (True, True, False)),
        ("It is small, at the bottom left, below a cat.", (True, True, False)),
        ("It is small, at the bottom left, below a car.", (True, True, False)),
        ("It is small, at the bottom left.", (True, True, False)),
    ],
)
def test_an_untrue_part_is_found(sentence: str, true: tuple[bool, bool, bool]) -> None:
    found = judged(CAR_AND_DOG, "car", f"yes, it contains a car. {sentence}")
    assert found is not None
    assert (found.size, found.place, found.neighbour) == true
    assert found.all == all(true)


def test_an_answer_without_a_description_cannot_be_judged() -> None:
    assert judged(CAR_AND_DOG, "car", "yes, it contains a car.") is None
    assert judged(CAR_AND_DOG, "car", "No.") is None


def test_what_describe_says_is_judged_true_whatever_the_artist() -> None:
    for artist in ("noto", "fxemoji", None):
        for seed in range(20):
            shown = scene(seed, artist, size=(96, 128))
            for name in shown.classes:
                found = judged(shown, name, f"yes, it contains a {name}. {describe(shown, name)}")
                assert found is not None
                assert found.all
