"""Results as values: pickled, copied, compared, and sent to another process."""

from __future__ import annotations

import copy
import json
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fseg
from fseg.result import Failure, Result
from probe.errors import ImageError
from tests.unit.fseg.fakes import evidence


def result() -> Result:
    cat = evidence(response=torch.tensor([[0.5, 0.0], [0.0, 0.0]]), refined=torch.eye(2).bool(), points=((0.0, 0.0),), score=0.9)
    dog = evidence(name="dog", present=False, answer="No.")
    return Result(
        image=Image.new("RGB", (2, 2), "white"),
        labels=np.array([[1, 0], [0, 1]]),
        classes=("cat", "dog"),
        evidence={"cat": cat, "dog": dog},
        recipe=fseg.get_recipe("glyphs"),
        models={"backbone": "some/model"},
        sam_masks={"cat": np.eye(2, dtype=bool), "dog": None},
    )


def failure() -> Failure:
    return Failure("missing.png", ImageError("'missing.png' does not exist."))


COPIES: dict[str, Callable[[object], object]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES.keys())
@pytest.mark.parametrize("value", [result(), failure(), result().evidence["cat"], fseg.get_recipe("glyphs")])
def test_a_copy_is_equal(value: object, copied: Callable[[object], object]) -> None:
    assert copied(value) == value


def test_a_notebook_shows_the_labels_and_each_answer() -> None:
    shown = replace(result(), classes=("cat", "<dog>"), evidence={"cat": result().evidence["cat"], "<dog>": result().evidence["dog"]})
    html = shown._repr_html_()
    assert html.count("<img") == 1
    assert "rgba(192, 64, 192, 0.5)" in html  # the cat's colour in the label map
    assert "&lt;dog&gt;" in html
    assert ">2<" in html  # pixels of the cat


def test_the_area_of_a_class_is_its_pixels_in_the_label_map() -> None:
    assert (result().area("cat"), result().area("dog")) == (2, 0)
    with pytest.raises(fseg.FsegError, match=r"'cow' is no class of this result\. Its classes: cat, dog"):
        result().area("cow")


def test_saved_labels_that_a_recipe_leaves_without_a_class_have_a_name(tmp_path: Path) -> None:
    unfilled = replace(result(), recipe=result().recipe.with_({"compose.fill": "none"}))
    names = json.loads((unfilled.save(tmp_path) / "classes.json").read_text())
    assert names == {"0": "background", "1": "cat", "2": "dog", "255": "ignored"}


def test_a_recipe_is_short_in_a_line_and_whole_in_a_notebook() -> None:
    recipe = fseg.get_recipe("glyphs")
    assert repr(recipe) == "Recipe('glyphs', backbone 'glyphs', D*M_A; to_toml() has all values)"
    assert recipe._repr_html_().count("<tr>") == len(recipe.keys())


def _returned(value: object) -> object:
    return value


@pytest.mark.slow
def test_a_round_trip_through_a_spawned_process_changes_nothing() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for value in (result(), failure()):
            assert pool.submit(_returned, value).result(timeout=120) == value


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.array([[1, 0], [0, 0]])},
        {"labels": np.array([[1, 0], [0, 1]], dtype=np.int32)},
        {"classes": ("cat", "cow")},
        {"image": Image.new("RGB", (2, 2), "black")},
        {"sam_masks": {"cat": None, "dog": None}},
        {"evidence": {"cat": evidence(), "dog": evidence(name="dog", present=False, answer="No.")}},
    ],
    ids=["labels", "dtype", "classes", "image", "mask", "map"],
)
def test_a_result_with_another_value_is_another_result(change: dict[str, object]) -> None:
    assert replace(result(), **change) != result()  # type: ignore[arg-type]


def test_failures_are_equal_if_image_and_error_are() -> None:
    assert failure() != Failure("other.png", failure().error)
    assert failure() != Failure("missing.png", ImageError("'missing.png' is a folder."))
    assert failure() != Failure("missing.png", ValueError("'missing.png' does not exist."))


def test_arrays_of_failures_are_compared_by_value() -> None:
    pixels = np.zeros((2, 2, 3), dtype=np.uint8)
    assert Failure(pixels, ValueError("x")) == Failure(pixels.copy(), ValueError("x"))


def test_a_result_is_not_equal_to_its_folder(tmp_path: Path) -> None:
    assert result() != result().save(tmp_path)
