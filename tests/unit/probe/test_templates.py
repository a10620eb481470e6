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


PICTURE = Image.new("RGB", (40, 40))


@pytest.mark.parametrize("words", ["a </s> b", "<s>", "<unk>"])
@pytest.mark.parametrize("template", [None, "vicuna_v1"])
def test_a_special_token_in_the_users_words_is_refused(model: probe.Probe, words: str, template: str | None) -> None:
    with pytest.raises(TemplateError, match="a special token of this model"):
        model.encode(PICTURE, words, template=template)
    if template is None:
        with pytest.raises(TemplateError, match="a special token of this model"):
            model.encode(PICTURE, [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": words}]}])


def test_half_of_a_surrogate_pair_is_refused(model: probe.Probe) -> None:
    with pytest.raises(TemplateError, match="holds a lone surrogate"):
        model.encode(PICTURE, "cat\udce9")


def test_a_raw_prompt_may_hold_special_tokens(model: probe.Probe) -> None:
    raw = model.encode(PICTURE, "<image> a cat.</s> a dog", chat=False)
    assert raw.tokens.ids.count(2) == 1
