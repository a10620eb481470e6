"""JSON that every reader takes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fseg
from probe.disk import strict_json
from probe.errors import NotFinite
from tests.unit.fseg.fakes import evidence


def test_plain_values_read_back() -> None:
    values = {"name": "«cat»", "margin": 1.5, "points": [[1, 2]], "box": None}
    assert strict_json.load(strict_json.dump(values, indent=2)) == values
    assert strict_json.dump({"name": "«cat»"}) == '{"name": "«cat»"}'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_named_with_its_place(value: float) -> None:
    with pytest.raises(NotFinite, match=rf"classes\.1\.margin is {value}, which JSON cannot hold"):
        strict_json.dump({"classes": [{"margin": 0.5}, {"margin": value}]})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": NaN}', "NaN is no JSON"),
        (b"[-Infinity]", "-Infinity is no JSON"),
        (b"[1e999]", "1e999 is too large a number"),
        (b'{"a": 1, "a": 2}', "a key is there twice"),
        (b"\xff", "can't decode byte 0xff"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b"", "Expecting value"),
    ],
)
def test_what_is_no_json_is_refused_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        strict_json.load(content)


def test_the_name_of_a_file_that_is_not_utf_8_reads_back() -> None:
    name = os.fsdecode(b"caf\xe9")
    assert strict_json.dump([name]) == b'["caf\\udce9"]'
    assert strict_json.load(strict_json.dump([name])) == [name]


def test_a_result_with_a_margin_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    cat = evidence((1, 1), (2, 2), "cat")
    result = fseg.Result(
        Image.new("RGB", (2, 2)), np.zeros((2, 2), dtype=np.int64), ("cat",), {"cat": cat}, fseg.get_recipe("glyphs"), {}, {}
    )
    assert (
        strict_json.load((replace(result, sam_masks={"cat": None}).save(tmp_path / "good") / "result.json").read_bytes())["classes"][0][
            "margin"
        ]
        is None
    )
    unsure = replace(result, evidence={"cat": replace(cat, margin=float("nan"))})
    with pytest.raises(NotFinite, match=r"classes\.0\.margin is nan"):
        unsure.save(tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
