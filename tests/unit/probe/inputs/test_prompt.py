"""Prompts that cannot be laid out: what is no message, and templates that fail."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from PIL import Image

import probe
from probe.errors import TemplateError
from tests import zoo


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    hf, processor = zoo.llava()
    return probe.load(model=hf, processor=processor)


@pytest.mark.parametrize(
    "text", [["Is there a cat?", "Is there a dog?"], [{"role": "user"}], [{"role": "user", "content": [5]}], 5, {"a": 1}]
)
def test_what_is_no_message_is_refused(model: probe.Probe, wide_image: Image.Image, text: Any) -> None:
    with pytest.raises(TemplateError, match=r"is no chat message\. Give one text, or messages such as"):
        model.encode(wide_image, text)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{% for m in messages %}", "TemplateSyntaxError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
    ],
    ids=["sandbox", "syntax", "division", "refuses", "endless"],
)
def test_a_template_that_fails_or_is_stopped_is_named(model: probe.Probe, wide_image: Image.Image, template: str, reason: str) -> None:
    processor = copy.copy(model.processor)
    processor.chat_template = template
    hostile = probe.load(model=model.model, processor=processor)
    with pytest.raises(TemplateError, match=f"chat template of this checkpoint cannot lay out the messages .*{reason}"):
        hostile.encode(wide_image, "Is there a cat?")


def test_a_prompt_without_an_image_is_text_alone_however_images_are_resized(model: probe.Probe) -> None:
    direct = probe.load(model=model.model, processor=model.processor, resize="stretch")
    encoding = direct.encode([], "Is there a cat?")
    assert encoding.tokens.text("question") == "Is there a cat?"
    assert encoding.tokens.images == ()
    with pytest.raises(probe.errors.InvalidRead, match=r"does not run for these inputs\. Vision states need an image"):
        direct.run(encoding, probe.Vision())


def test_several_encodings_are_run_one_by_one(model: probe.Probe, wide_image: Image.Image) -> None:
    encoding = model.encode(wide_image, "Is there a cat?")
    with pytest.raises(probe.errors.InvalidRead, match=r"run\(\) takes one encoding, got a list"):
        model.run([encoding], probe.Hidden(1))  # type: ignore[arg-type]


def test_a_plain_encoding_says_why_its_maps_do_not_fold(model: probe.Probe, wide_image: Image.Image) -> None:
    plain = dict(model.encode(wide_image, "Is there a cat?").inputs)
    hidden = model.run(plain, probe.Hidden(1, at="image")).hidden(layer=1)
    with pytest.raises(probe.errors.GridUnknown, match="a plain encoding does not say which image its tokens are of"):
        hidden.grid()
