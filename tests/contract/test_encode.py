"""`encode` of every image-text family with its real processor class: what the processor itself returns, and states equal to Hugging Face's.

Input ids, masks and pixels are those of the processor called directly with the same image and prompt. Hidden states are those of a plain
forward on the processor's output, of the same kernel in float32: 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import probe
from probe.errors import ImageError, PackageNeeded, ProbeError, TemplateError
from tests import families, processors
from tests.contract.parity import hidden_difference
from tests.families.daily import DAILY, daily
from tests.processors.encoded import ENCODED
from tests.processors.native import NATIVE

BUILT: dict[str, Callable[[], Any]] = {**NATIVE, **processors.FAMILIES, **ENCODED}
BUILT["blip-2"] = BUILT.pop("blip_2")
# Families whose prompt alone is no input, and what the error says.
REFUSED = {
    "diffusion_gemma": "refines a canvas of 8 tokens",
    "instructblipvideo": "takes no images, 1 was given. Pass videos=",
    "shieldgemma2": "wrote 3 prompts of its own",
}
# Families whose processors are not called with images= and text= alone: how Hugging Face's documentation calls them.
CALLED: dict[str, Callable[..., Any]] = {
    "pp_formulanet": lambda processor, image, prompt: processor(images=image, return_tensors="pt"),
    "udop": lambda processor, image, prompt: processor(
        images=image, text=prompt.split(), boxes=[[0] * 4] * len(prompt.split()), return_tensors="pt"
    ),
}
ONE_IMAGE = ("blip", "blip-2", "florence2", "fuyu", "git", "instructblip", "kosmos-2", "kosmos-2.5", "pix2struct", "pp_formulanet", "udop")
# The image is in an encoder, or blocks attend across to it: what moves is no token of its own.
NO_TOKENS = ("idefics", "mllama", "t5gemma2")
START = ("florence2", "pix2struct", "pp_formulanet", "t5gemma2", "udop", "vision-encoder-decoder")
# (height, width): a wide image and a tall one.
WIDE, TALL = (60, 100), (96, 40)


@cache
def opened(name: str) -> probe.Probe:
    hf, processor = BUILT[name]()
    return probe.load(model=hf, processor=processor)


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def question(name: str) -> str:
    return "" if name == "pp_formulanet" else "What is this?"


def direct(name: str, image: Image.Image, prompt: str) -> dict[str, Any]:
    """What the processor returns when it is called without us."""
    processor = opened(name).processor
    assert processor is not None
    if name in CALLED:
        return dict(CALLED[name](processor, image, prompt))
    # As in Hugging Face's apply_chat_template, a prompt that begins with the beginning of a sequence gets no other.
    bos = processor.tokenizer.bos_token
    options = {"add_special_tokens": False} if bos and prompt.startswith(bos) else {}
    return dict(processor(images=[image], text=prompt, return_tensors="pt", **options))


def test_every_family_is_encoded_or_refused() -> None:
    newer = {"apertus1p5", "hy_v4_vl"}  # tests/contract/test_newer_families.py encodes these
    assert set(families.FAMILIES) - newer <= set(BUILT)


@pytest.mark.parametrize("name", daily(sorted(set(BUILT) - set(REFUSED))))
def test_the_inputs_are_the_processors_and_the_states_hugging_faces(name: str) -> None:
    model, image = opened(name), picture(WIDE)
    encoding = model.encode(image, question(name))
    expected = direct(name, image, encoding.prompt)
    if name == "vision-encoder-decoder":  # its processor calls them the ids of a text
        expected = {"pixel_values": expected["pixel_values"], "decoder_input_ids": expected["input_ids"]}
    for key, value in expected.items():
        # generate() puts the start token before what a processor returns for the decoder.
        given = encoding.inputs[key][:, 1:] if key.startswith("decoder_") else encoding.inputs[key]
        assert torch.equal(torch.as_tensor(given), torch.as_tensor(value)), key
    assert set(encoding.inputs) - set(expected) == ({"decoder_input_ids"} - set(expected) if name in START else set())
    trace = model.run(encoding, [probe.Hidden("all")])
    types = {"mm_token_type_ids": (expected["input_ids"] == model.modules.image_token_id).int()} if name == "cosmos3_edge" else {}
    assert hidden_difference(model, trace, {**encoding.inputs, **types}) == 0  # cosmos3_edge needs what its processor leaves out
    assert trace.hidden(layer=0).data.shape[model.modules.axes.index("token") if "stream" not in model.modules.axes else 1] == len(
        encoding.tokens
    )


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_takes_more_than_an_image_and_a_prompt_says_what(name: str) -> None:
    with pytest.raises((ImageError, TemplateError), match=REFUSED[name]):
        opened(name).encode(picture(WIDE), "What is this?")


@pytest.mark.parametrize("name", daily(sorted(set(BUILT) - {*REFUSED, *ONE_IMAGE, *NO_TOKENS, "vision-encoder-decoder"})))
def test_two_images_of_different_sizes_are_told_apart(name: str) -> None:
    model = opened(name)
    first = picture(WIDE)
    shape = WIDE if name == "perception_lm" else TALL  # its processor takes equal numbers of tiles alone
    encoded = [model.encode([first, picture(shape, seed)], question(name)) for seed in (1, 2)]
    tokens = encoded[0].tokens
    assert len(tokens.span("image 0")) == len(model.encode(first, question(name)).tokens.span("image"))
    one, other = (model.run(encoding, probe.Hidden([0], at=None)).hidden(layer=0).data for encoding in encoded)
    moved = set((one - other).abs().amax((0, -1)).nonzero().flatten().tolist())
    second = set(tokens.span("image 1").positions)
    assert moved <= second  # the second image's own tokens, and none of the first's
    assert len(moved) > len(second) / 2  # all but newlines and other separators


@pytest.mark.parametrize("name", daily([*ONE_IMAGE, "vision-encoder-decoder"], (*DAILY, "vision-encoder-decoder")))
def test_a_family_of_one_image_refuses_two(name: str) -> None:
    with pytest.raises(ImageError, match="takes one image a prompt, 2 were given"):
        opened(name).encode([picture(WIDE), picture(TALL)], question(name))


@pytest.mark.parametrize("name", ["idefics", "t5gemma2", "mllama"])
def test_two_images_beside_the_sequence_reach_its_states(name: str) -> None:
    model = opened(name)
    encoded = [model.encode([picture(WIDE), picture(TALL, seed)], question(name)) for seed in (1, 2)]
    one, other = (model.run(encoding, probe.Hidden([-1], at=-1)).hidden().data for encoding in encoded)
    assert not torch.equal(one, other)


def test_a_formula_reader_takes_no_text() -> None:
    with pytest.raises(TemplateError, match=r"encode\(image, ''\)"):
        opened("pp_formulanet").encode(picture(WIDE), "What is this?")


def test_a_processor_that_needs_a_package_names_it() -> None:
    model = opened("udop")
    assert model.processor is not None
    model.processor.image_processor.apply_ocr = True
    try:
        with pytest.raises(PackageNeeded, match="PyTesseract"):
            model.encode(picture(WIDE), "What is this?")
    finally:
        model.processor.image_processor.apply_ocr = False


def test_a_generate_that_changes_the_prompt_is_refused_before_any_forward() -> None:
    model = opened("blip")
    encoding = model.encode(picture(WIDE), "a picture of")
    given = encoding.inputs["input_ids"].clone()
    with pytest.raises(ProbeError, match=r"blip cannot generate\(\) here: .* drops the last, .* encoding.with_answer\(text\)"):
        model.generate(encoding, max_new_tokens=3)
    assert torch.equal(encoding.inputs["input_ids"], given)
    with pytest.raises(ProbeError, match="blip cannot generate"), model.open(picture(WIDE)) as session:
        session.ask(["a picture of"], max_new_tokens=3)


@pytest.mark.parametrize("name", ["fuyu", "git", "idefics", "kosmos-2", "florence2", "pix2struct", "pp_formulanet", "t5gemma2", "udop"])
def test_an_answer_continues_the_sequence_that_is_read(name: str) -> None:
    model = opened(name)
    encoding = model.encode(picture(WIDE), question(name))
    answer = model.generate(encoding, max_new_tokens=3, min_new_tokens=3)
    new = answer.tokens.ids[answer.prompt_length :]
    given = encoding.with_answer_ids(new)
    assert len(new) == 3
    assert torch.equal(given.sequence, torch.cat([encoding.sequence, torch.tensor([new])], dim=1))
    logits = model.run(given, probe.Logits(at=[-4, -3])).logits().data[0]
    assert tuple(logits.argmax(-1).tolist()) == new[:2]  # teacher forcing gives the tokens that were generated
