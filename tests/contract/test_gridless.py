"""Families whose image tokens correspond to no cells of the image: they say why, and fold the states of their towers."""

from __future__ import annotations

from pathlib import Path

import pytest

import probe
from probe.backbones.registry import BACKBONES
from probe.views.page.asking import look
from tests import families, processors
from tests.contract import test_encode
from tests.contract.test_grids import inverted, noise_image, opened, shows
from tests.processors.gridless import RESAMPLED

REASONS = {
    "idefics2": "a perceiver resamples each image into latents",
    "blip_2": "a Q-Former resamples the image into query tokens",
    "instructblip": "a Q-Former resamples the image into query tokens",
    "mllama": "one token stands for the image",
}
# 28 pixels a tile, 7 a patch. Idefics 2: 96 x 160 becomes 16 x 28 pixels and 200 x 64 becomes 28 x 14, never below 14; Mllama: 2 x 2 and 3 x 1 tiles.
PATCHES = {"idefics2": ((2, 4), (4, 2)), "blip_2": ((4, 4), (4, 4)), "instructblip": ((4, 4), (4, 4)), "mllama": ((8, 8), (16, 4))}


@pytest.mark.slow
def test_every_family_without_a_grid_is_here() -> None:
    assert set(REASONS) == {name for name in processors.FAMILIES if opened(name).backbone.no_grid_reason}


@pytest.mark.parametrize("name", REASONS)
def test_folding_image_tokens_says_why_there_is_no_grid(name: str) -> None:
    model = opened(name)
    states = model.run(model.encode(noise_image("wide"), "What?"), probe.Hidden([1], at="image")).hidden(layer=1)
    with pytest.raises(probe.errors.GridUnknown, match=REASONS[name]):
        states.grid()
    assert REASONS[name] in model.inspect()["grid"]


@pytest.mark.parametrize("name", REASONS)
def test_the_layout_counts_the_image_tokens_of_each_image(name: str) -> None:
    model = opened(name)
    encoding = model.encode([noise_image("wide"), noise_image("tall")] if name in ("idefics2", "mllama") else noise_image("wide"), "What?")
    tokens = {"mllama": 1}.get(name, 4)
    assert [len(image) for image in encoding.tokens.images] == [tokens] * len(encoding.tokens.layouts)
    assert encoding.tokens.text("question") == "What?"


def test_the_page_of_an_answer_shows_the_sum_over_the_image_tokens(tmp_path: Path) -> None:
    model, image = opened("mllama"), noise_image("wide")
    seen = look(model, model.encode(image, "What?").with_answer("a cat"), lens=False)
    written = probe.views.page(seen.trace, image, to=tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<figcaption>The image.</figcaption>" in written
    assert seen.trace.attention().shape["key"] == 1  # blocks of cross-attention, whose keys are the tower's, are left out


@pytest.mark.parametrize("shape", ["wide", "tall"])
@pytest.mark.parametrize("name", REASONS)
def test_painting_a_patch_moves_its_own_state_in_the_tower(name: str, shape: str) -> None:
    model, image = opened(name), noise_image(shape)

    def look(shown: object) -> probe.Activation:
        return model.run(model.encode(shown, "What?"), probe.Vision([0])).vision().grid()  # type: ignore[arg-type]

    before = look(image)
    view = before.view
    assert view is not None
    assert (view.rows, view.cols) == PATCHES[name][shape == "tall"]
    inside = [(row, col) for row in range(view.rows) for col in range(view.cols) if shows(image, view.cell_box(row, col))]
    for row, col in (inside[0], inside[len(inside) // 2], inside[-1]):
        moved = (look(inverted(image, view.cell_box(row, col))).data - before.data)[0].norm(dim=-1)
        assert divmod(int(moved.argmax()), view.cols) == (row, col)


def test_idefics2_counts_five_images_where_its_processor_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened("idefics2")
    monkeypatch.setattr(model.processor.image_processor, "do_image_splitting", True)
    encoding = model.encode(noise_image("wide"), "What?")
    assert len(encoding.tokens.span("image")) == 5 * 4
    with pytest.raises(probe.errors.GridUnknown, match=r"several .* or tiles"):
        model.run(encoding, probe.Vision([0])).vision().grid()


QUERIES, ACROSS, ENCODED = "learned queries resample the image", "blocks attend across to all of it", "the image goes into an encoder"
WHY = {
    **dict.fromkeys(("aria", "deepseek_ocr2", "kosmos-2", "kosmos-2.5"), QUERIES),
    "instructblipvideo": REASONS["instructblip"],
    **dict.fromkeys(("blip", "idefics"), ACROSS),
    **dict.fromkeys(("florence2", "pix2struct", "pp_formulanet", "t5gemma2", "udop", "vision-encoder-decoder", "diffusion_gemma"), ENCODED),
}


def test_every_reason_is_written_down() -> None:
    reasons = {name for name, backbone in BACKBONES.items() if backbone.no_grid_reason and name in families.FAMILIES}
    assert reasons == {name.replace("blip_2", "blip-2") for name in REASONS} | set(WHY)


@pytest.mark.parametrize("name", WHY)
def test_inspect_says_why_there_is_no_grid(name: str) -> None:
    hf, _ = families.build(name)
    grid = probe.load(model=hf).inspect()["grid"]
    assert grid.startswith("none: ")
    assert WHY[name] in grid


@pytest.mark.parametrize("name", sorted(set(WHY) - {"diffusion_gemma", "instructblipvideo", "udop"}))
def test_no_states_of_such_a_family_fold_and_each_says_why(name: str) -> None:
    model = test_encode.opened(name)
    encoding = model.encode(noise_image("wide"), test_encode.question(name))
    if WHY[name] == QUERIES:
        with pytest.raises(probe.errors.GridUnknown, match=QUERIES):
            model.run(encoding, probe.Hidden([1], at="image")).hidden(layer=1).grid()
        with pytest.raises(probe.errors.GridUnknown, match=QUERIES):
            encoding.tokens.cells((0, 0, 20, 20))
    else:
        with pytest.raises(probe.errors.SpanNotFound, match=f"No span 'image' in {name}: .*{WHY[name]}"):
            model.run(encoding, probe.Hidden([1], at="image"))
        with pytest.raises(probe.errors.GridUnknown, match=WHY[name]):
            model.run(encoding, probe.Hidden([1], at=None)).hidden(layer=1).grid()
    with pytest.raises(probe.errors.GridUnknown, match="does not say how the tower's patches lie"):
        model.run(encoding, probe.Vision([1])).vision().grid()


# 256 queries for an image at Aria's default size; 256 for the whole image at DeepSeek-OCR 2's, 144 for each of three tiles, and a separator.
@pytest.mark.parametrize(("name", "tokens"), [("aria", (256, 256)), ("deepseek_ocr2", (257, 3 * 144 + 257))])
def test_query_tokens_are_counted_and_not_folded(name: str, tokens: tuple[int, int]) -> None:
    hf, processor = RESAMPLED[name]()
    model = probe.load(model=hf, processor=processor)
    encoding = model.encode([noise_image("wide"), noise_image("tall", times=6)], "What?")
    assert tuple(len(image) for image in encoding.tokens.images) == tokens
    states = model.run(encoding, probe.Hidden([1], at="image 1")).hidden(layer=1)
    with pytest.raises(probe.errors.GridUnknown, match=QUERIES):
        states.grid()
