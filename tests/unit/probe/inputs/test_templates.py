"""A user's words in a prompt: what the model would not read as words is refused before it is asked."""

from __future__ import annotations

import pytest
from PIL import Image

import probe
from probe.errors import TemplateError
from tests import zoo


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    hf, processor = zoo.llava()
    return probe.load(model=hf, processor=processor)


BLANK = Image.new("RGB", (40, 40))


@pytest.mark.parametrize("template", [None, "vicuna_v1"])
def test_a_special_token_may_be_asked_about_and_an_image_token_may_not(model: probe.Probe, template: str | None) -> None:
    assert 2 in model.encode(BLANK, "Is there a </s> in it?", template=template).tokens.ids
    with pytest.raises(TemplateError, match="holds the image token '<image>'"):
        model.encode(BLANK, "Is there an <image> in it?", template=template)


def test_half_of_a_surrogate_pair_is_refused(model: probe.Probe) -> None:
    with pytest.raises(TemplateError, match="holds a lone surrogate"):
        model.encode(BLANK, "cat\udce9")


def test_a_raw_prompt_may_hold_special_tokens(model: probe.Probe) -> None:
    raw = model.encode(BLANK, "<image> a cat.</s> a dog", chat=False)
    assert raw.tokens.ids.count(2) == 1


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("llava_hf", "USER: <image>\nWhy? ASSISTANT:"),
        (
            "llava_v1",
            "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers "
            "to the human's questions. USER: <image>\nWhy? ASSISTANT:",
        ),
    ],
)
def test_llavas_other_conversations_are_known_by_name(model: probe.Probe, name: str, prompt: str) -> None:
    assert model.encode(BLANK, "Why?", template=name).prompt == prompt
