"""Class lists index the truth: their length and order are facts of the data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from fseg.errors import InvalidClasses
from fseg.evaluation.datasets.class_lists import LISTS, class_list
from fseg.evaluation.datasets.declarations import BENCHMARKS, data_set
from tests.unit.fseg.evaluation import trees

FIRST_LABEL = {"voc21": 1, "context60": 1, "coco-object": 1, "coco-stuff": 0, "ade150": 0}
KNOWN = {
    "voc21": {1: "aeroplane", 11: "diningtable", 15: "person", 16: "pottedplant", 20: "tvmonitor"},
    "context60": {1: "aeroplane", 2: "bag", 11: "building", 29: "grass", 40: "pottedplant", 55: "tvmonitor", 59: "wood"},
    "coco-object": {1: "person", 10: "traffic light", 59: "potted plant", 63: "tv", 80: "toothbrush"},
    "coco-stuff": {0: "person", 79: "toothbrush", 80: "banner", 94: "clouds", 112: "grass", 147: "snow", 168: "window-blind", 170: "wood"},
    "ade150": {0: "wall", 12: "person", 20: "car", 50: "refrigerator", 100: "poster", 136: "traffic light", 149: "flag"},
}


@pytest.mark.parametrize("which", LISTS)
@pytest.mark.parametrize(("name", "count"), [("voc21", 20), ("context60", 59), ("coco-object", 80), ("coco-stuff", 171), ("ade150", 150)])
def test_a_list_names_every_class_but_the_background(name: str, count: int, which: str) -> None:
    assert len(class_list(BENCHMARKS[name], which)) == count


@pytest.mark.parametrize("name", KNOWN)
def test_the_names_stand_at_their_labels(name: str) -> None:
    names = list(class_list(BENCHMARKS[name]))
    assert {label: names[label - FIRST_LABEL[name]] for label in KNOWN[name]} == KNOWN[name]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_no_natural_word_stands_for_two_classes(name: str) -> None:
    words = [word for names in class_list(BENCHMARKS[name], "natural").values() for word in names]
    assert sorted(set(words)) == sorted(words)


def test_natural_words_are_english() -> None:
    names = class_list(BENCHMARKS["voc21"], "natural")
    assert list(names.values())[15] == ("potted plant", "houseplant")
    assert names["tv monitor"][1] == "television"
    assert class_list(BENCHMARKS["coco-stuff"], "natural")["brick wall"] == ("brick wall",)


def test_objects_are_the_first_80_of_stuff() -> None:
    assert list(class_list(BENCHMARKS["coco-stuff"]))[:80] == list(class_list(BENCHMARKS["coco-object"]))


def test_a_list_of_ones_own_has_to_name_every_label(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("plane, jet\nbike\n")
    with pytest.raises(InvalidClasses, match="has 2 classes, voc21 has 20 without the background"):
        class_list(BENCHMARKS["voc21"], str(path))
    root = trees.folder(tmp_path / "set", "background\naeroplane\nbicycle\n", {"a": [[0]]})
    assert class_list(data_set("folder", root), str(path)) == {"plane": ("plane", "jet"), "bike": ("bike",)}


def test_a_set_with_names_of_its_own_needs_no_list(tmp_path: Path) -> None:
    root = trees.folder(tmp_path, "background\ncat\n", {"a": [[0]]})
    assert class_list(data_set("folder", root)) == {"cat": ("cat",)}


def test_an_unknown_list_says_what_there_is() -> None:
    with pytest.raises(InvalidClasses, match="benchmark or natural, or a file"):
        class_list(BENCHMARKS["voc21"], "everyday")
