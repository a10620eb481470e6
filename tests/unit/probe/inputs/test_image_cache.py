"""An image is prepared once for each image processor, set of images and set of options, and never given to another model."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BatchFeature

import probe
from probe.errors import ProcessorNeeded
from probe.inputs.image_cache import ImageCache, with_image_cache
from tests import zoo


class Counting:
    """An image processor that counts how often it works."""

    size = 7

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Any, scale: float = 1.0, **_: Any) -> BatchFeature:
        self.calls += 1
        shown = images if isinstance(images, list) else [images]
        values = torch.stack([torch.from_numpy(np.array(image)).float() * scale for image in shown])
        return BatchFeature({"pixel_values": values, "rows": [1]})


class Processor:
    def __init__(self) -> None:
        self.image_processor: Any = Counting()


@pytest.fixture
def processor() -> Processor:
    return Processor()


def grey(value: int) -> Image.Image:
    return Image.new("RGB", (4, 3), (value, value, value))


def test_equal_images_are_prepared_once(processor: Processor) -> None:
    cached = with_image_cache(processor, ImageCache())
    first = cached.image_processor([grey(1)])["pixel_values"]
    assert cached.image_processor([grey(1)])["pixel_values"] is first
    assert cached.image_processor(images=[grey(1)])["pixel_values"] is first
    assert processor.image_processor.calls == 1


def test_other_images_and_other_options_are_prepared(processor: Processor) -> None:
    cached = with_image_cache(processor, ImageCache())
    results = [
        cached.image_processor([grey(1)]),
        cached.image_processor([grey(2)]),
        cached.image_processor([grey(1), grey(2)]),
        cached.image_processor([grey(1)], scale=2.0),
    ]
    assert processor.image_processor.calls == 4
    assert [float(one["pixel_values"].sum()) for one in results] == [36, 72, 108, 72]


def test_what_a_processor_takes_out_is_there_the_next_time(processor: Processor) -> None:
    cached = with_image_cache(processor, ImageCache())
    for _ in range(3):
        assert cached.image_processor([grey(1)]).pop("rows") == [1]


def test_two_processors_share_nothing_but_the_memory() -> None:
    image_cache, one, other = ImageCache(), Processor(), Processor()
    with_image_cache(one, image_cache).image_processor([grey(1)])
    with_image_cache(other, image_cache).image_processor([grey(1)])
    with_image_cache(one, image_cache).image_processor([grey(1)])
    assert (one.image_processor.calls, other.image_processor.calls) == (1, 1)


def test_all_else_is_the_image_processors_own(processor: Processor) -> None:
    cached = with_image_cache(processor, ImageCache())
    assert cached.image_processor.size == 7
    array = np.zeros((3, 4, 3), dtype=np.uint8)
    cached.image_processor(array)
    cached.image_processor([grey(1)], 2.0)
    cached.image_processor([grey(1)], 2.0)
    assert processor.image_processor.calls == 3
    assert pickle.loads(pickle.dumps(copy.deepcopy(cached))).image_processor.size == 7
    assert isinstance(processor.image_processor, Counting)


def test_a_processor_that_cannot_take_another_image_processor_is_left_as_it_is() -> None:
    class Fixed:
        @property
        def image_processor(self) -> Counting:
            return Counting()

    fixed, bare = Fixed(), object()
    assert with_image_cache(fixed, ImageCache()) is fixed
    assert with_image_cache(bare, ImageCache()) is bare


def opened(**options: Any) -> probe.Probe:
    model, processor = zoo.llava()
    return probe.load(model=model, processor=processor, **options)


@pytest.mark.parametrize("options", [{}, {"resize": "stretch", "tiles": False}])
def test_images_of_another_model_are_prepared_anew(options: dict[str, Any], wide_image: Image.Image) -> None:
    one, other = opened(**options), opened(**options)
    other.processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    expected = other.encode(wide_image, "Is there a cat?").inputs["pixel_values"]
    prepared = one.prepare(wide_image)
    one.encode(prepared, "Is there a cat?")
    assert torch.equal(other.encode(prepared, "Is there a cat?").inputs["pixel_values"], expected)
    with other.open(prepared) as session:
        assert torch.equal(session.answer(["Is there a cat?"], ["No."])[0].inputs["pixel_values"], expected)
    assert not torch.equal(one.encode(prepared, "Is there a cat?").inputs["pixel_values"], expected)


def test_images_can_be_shown_copied_and_sent(wide_image: Image.Image) -> None:
    model = opened()
    prepared = model.prepare(wide_image)
    expected = model.encode(prepared, "Is there a cat?").inputs["pixel_values"]
    assert repr(prepared).startswith("PreparedImages(images=")
    for sent in (copy.deepcopy(prepared), pickle.loads(pickle.dumps(prepared))):
        assert torch.equal(model.encode(sent, "Is there a cat?").inputs["pixel_values"], expected)


def test_without_a_processor_the_first_question_says_so(wide_image: Image.Image) -> None:
    model = probe.load(model=zoo.llava()[0])
    with model.open(wide_image) as session, pytest.raises(ProcessorNeeded, match=r"encode\(\) needs a processor"):
        session.ask(["Is there a cat?"])
