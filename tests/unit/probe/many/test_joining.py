"""Several inputs as one batch: what is padded where, and with what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import probe
from probe.backbones.molmo2 import Molmo2
from probe.many.joining import joined, kind_of, padding_id
from probe.runtime import Runtime
from tests import families


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    model, _ = families.build("llava")
    return probe.load(model=model).runtime


def ids(*tokens: int) -> torch.Tensor:
    return torch.tensor([tokens])


def test_tokens_are_padded_on_the_right_and_masked(runtime: Runtime) -> None:
    batch = joined([{"input_ids": ids(5, 6, 7)}, {"input_ids": ids(8)}], runtime)
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.padded == {"input_ids", "attention_mask"}


def test_tokens_are_padded_on_the_left_where_that_is_asked_for(runtime: Runtime) -> None:
    rows = [{"input_ids": ids(5, 6, 7), "attention_mask": ids(1, 1, 1)}, {"input_ids": ids(8), "attention_mask": ids(1)}]
    batch = joined(rows, runtime, left=frozenset(rows[0]))
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 7], [0, 0, 8]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


def test_inputs_of_one_length_get_no_mask_and_no_padding(runtime: Runtime) -> None:
    batch = joined([{"input_ids": ids(5, 6)}, {"input_ids": ids(7, 8)}], runtime)
    assert set(batch.inputs) == {"input_ids"}
    assert batch.padded == frozenset()


def test_images_follow_each_other_and_tiles_and_pixels_are_filled_up(runtime: Runtime) -> None:
    one, two = torch.ones(2, 1, 3, 4, 6), torch.full((1, 2, 3, 8, 2), 2.0)
    pixels = joined([{"pixel_values": one}, {"pixel_values": two}], runtime).inputs["pixel_values"]
    assert pixels.shape == (3, 2, 3, 8, 6)
    assert torch.equal(pixels[:2, :1, :, :4, :6], one)
    assert torch.equal(pixels[2:, :2, :, :8, :2], two)
    assert float(pixels.sum()) == float(one.sum() + two.sum())


def test_patches_and_lists_follow_each_other(runtime: Runtime) -> None:
    rows: list[dict[str, Any]] = [{"pixel_values": torch.ones(count, 5), "sizes": [count]} for count in (4, 2)]
    batch = joined(rows, runtime)
    assert batch.inputs["pixel_values"].shape == (6, 5)
    assert batch.inputs["sizes"] == [4, 2]
    assert batch.padded == frozenset()


def test_the_padding_token_is_no_image_token(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    assert padding_id(runtime) == 0
    monkeypatch.setattr(runtime, "modules", replace(runtime.modules, image_token_id=0))
    assert padding_id(runtime) == 1


def test_inputs_of_other_names_axes_or_shapes_that_must_agree_are_of_another_kind(runtime: Runtime) -> None:
    class Fixed(probe.Backbone):
        same_shape = frozenset({"pixel_values"})

    text, image = {"input_ids": ids(5)}, {"input_ids": ids(5), "pixel_values": torch.ones(1, 3, 4, 4)}
    larger = {**image, "pixel_values": torch.ones(1, 3, 4, 8)}
    tiled = {**image, "pixel_values": torch.ones(1, 1, 3, 4, 4)}
    kinds = [kind_of(inputs, runtime.backbone) for inputs in (text, image, larger, tiled)]
    assert [kinds.index(kind) for kind in kinds] == [0, 1, 1, 3]
    assert kind_of(image, Fixed()) != kind_of(larger, Fixed())


def test_molmo_counts_the_patches_of_all_images_through() -> None:
    rows = [
        {"image_token_pooling": torch.tensor([[0, 5], [-1, 2]]), "pixel_values": torch.zeros(2, 3, 7)},
        {"input_ids": ids(1)},
        {"image_token_pooling": torch.tensor([[1, -1]]), "pixel_values": torch.zeros(1, 3, 7)},
    ]
    counted = Molmo2().renumbered(rows)
    assert counted[0]["image_token_pooling"].tolist() == [[0, 5], [-1, 2]]
    assert counted[1] is rows[1]
    assert counted[2]["image_token_pooling"].tolist() == [[7, -1]]  # behind two crops of three patches
