"""The page's file: what is packed into it is what was read, and a trace with less in it has a page, too."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import probe
from fseg.fusion_methods import attention as fseg_attention
from probe.views.page.maps import STEPS, quantise, spatial_entropy
from probe.views.page.packing import pack
from tests import zoo

WORDS = "yes, a cat <script>alert(1)</script>"


def opened(made: tuple[Any, Any]) -> probe.Probe:
    return probe.load(model=made[0], processor=made[1])


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    return opened(zoo.llava())


@pytest.fixture(scope="module")
def answer(model: probe.Probe, wide_image: Image.Image) -> probe.Answer:
    return model.encode(wide_image, "Is there a cat?").with_answer(WORDS)


@pytest.fixture(scope="module")
def trace(model: probe.Probe, answer: probe.Answer) -> probe.Trace:
    return model.run(answer, [probe.Attention("all", query="answer", key="image"), probe.Hidden("all", at=("image", "answer"))])


def unpacked(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a page, read as `pack` describes them."""
    (data,) = re.findall(r'id="data">([^<]*)<', path.read_text(encoding="utf-8"))
    content = zlib.decompress(base64.b85decode(data.replace(",", "<")))
    length = int.from_bytes(content[:4], "little")
    header = json.loads(content[4 : 4 + length])
    arrays = {
        name: np.frombuffer(content, one["dtype"], int(np.prod(one["shape"])), 4 + length + one["offset"]).reshape(one["shape"])
        for name, one in header["arrays"].items()
    }
    return header, arrays


def values(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The numbers that the bytes stand for."""
    low, high = arrays[f"{name} low"][..., None], arrays[f"{name} high"][..., None]
    return low + arrays[name] / STEPS * (high - low)


def assert_within_a_step(packed: np.ndarray, exact: torch.Tensor) -> None:
    wanted = exact.numpy()
    span = wanted.max(-1, keepdims=True) - wanted.min(-1, keepdims=True)
    assert packed.shape == wanted.shape
    assert (np.abs(packed - wanted) <= span / 255 + 1e-9).all()


def test_attention_and_cosine_are_packed_within_a_255th_of_their_range(trace: probe.Trace, wide_image: Image.Image, tmp_path: Path) -> None:
    header, arrays = unpacked(probe.views.page(trace, wide_image, to=tmp_path / "page.html"))
    rows = trace.attention().data[:, 0]  # (layer, head, query, key)
    assert_within_a_step(values(arrays, "attention 0"), rows.flatten(0, 1))
    assert header["maps"]["attention"][:3] == [[0, 0], [0, 1], [0, 2]]
    np.testing.assert_allclose(arrays["mass 0"], rows.flatten(0, 1).sum(-1), rtol=1e-6)
    image, words = trace.hidden("image").data[:, 0], trace.hidden("answer").data[:, 0]
    assert_within_a_step(values(arrays, "cosine 0"), torch.cosine_similarity(words[:, :, None], image[:, None], dim=-1))
    assert [token["text"] for token in header["tokens"]][:4] == ["yes", ",", "a", "cat"]
    assert header["views"][0]["size"] == [40, 80]


def test_two_tiled_views_have_the_cells_of_their_grids(wide_image: Image.Image, tmp_path: Path) -> None:
    tiled = opened(zoo.llava_next())
    trace = tiled.run(tiled.encode(wide_image, "A cat?"), probe.Attention([2], query=-1, key="image", heads="mean"))
    header, arrays = unpacked(probe.views.page(trace, wide_image, to=tmp_path / "page.html"))
    assert [view["name"] for view in header["views"]] == ["image, base", "image, tiles"]
    assert header["maps"] == {"attention": [[2, "mean"]]}
    for number, view in enumerate(("base", "tiles")):
        grid = trace.attention(layer=2).grid(view).data[0]
        assert_within_a_step(values(arrays, f"attention {number}"), grid.flatten(1)[None])


def test_the_spatial_entropy_is_the_segmenters() -> None:
    maps = torch.rand(40, 7, 9, generator=torch.Generator().manual_seed(0)) ** 4
    maps[3] = 1.0
    torch.testing.assert_close(spatial_entropy(maps), fseg_attention.spatial_entropy(maps).float())


def test_noise_takes_what_its_values_differ_by_and_runs_take_little() -> None:
    # Half of the values are 0, a quarter 1, ...: two bits each. Five characters are four bytes.
    noise = np.random.default_rng(0).geometric(0.5, 100_000).astype(np.uint8) - 1
    assert len(pack({}, {"noise": noise})) == pytest.approx(100_000 * 2 / 8 * 5 / 4, rel=0.01)
    assert len(pack({}, {"runs": np.arange(20, dtype=np.uint8).repeat(5_000)})) < 1_000


def test_a_flat_map_is_its_value() -> None:
    quantised = quantise(torch.full((2, 3), 0.25))
    assert quantised.values.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert quantised.low.tolist() == [0.25, 0.25]


def test_what_is_too_much_is_thinned_with_a_note(trace: probe.Trace, wide_image: Image.Image, tmp_path: Path) -> None:
    header, _ = unpacked(probe.views.page(trace, wide_image, to=tmp_path / "page.html", tokens=3, layers=2))
    asked = len(trace.tokens[0].span("answer"))
    assert header["maps"] == {"attention": [[block, head] for block in (0, 3) for head in range(4)], "cosine": [[0, ""], [4, ""]]}
    assert [number for number, token in enumerate(header["tokens"]) if token["places"]] == [0, round((asked - 1) / 2), asked - 1]
    assert len(header["tokens"]) == asked
    assert header["notes"] == [
        f"3 of {asked} tokens have maps; the others are greyed.",
        "Attention of 2 of 4 layers, evenly spaced.",
        "Cosine of 2 of 5 layers, evenly spaced.",
    ]


def test_an_answer_with_a_tag_in_it_is_text(trace: probe.Trace, wide_image: Image.Image, tmp_path: Path) -> None:
    path = probe.views.page(trace, wide_image, to=tmp_path / "page.html")
    assert unpacked(path)[0]["answer"] == WORDS
    assert path.read_text(encoding="utf-8").count("alert(1)") == path.read_text(encoding="utf-8").count("&lt;script&gt;alert(1)&lt;") > 0


def test_likely_words_are_those_of_the_lens(model: probe.Probe, trace: probe.Trace, wide_image: Image.Image, tmp_path: Path) -> None:
    likely = model.lens(trace.hidden(("image", "answer")), top=2)
    header, arrays = unpacked(probe.views.page(trace, wide_image, to=tmp_path / "page.html", likely=likely))
    named = header["likely"]
    assert named["layers"] == [0, 1, 2, 3, 4]
    place = named["positions"].index(trace.tokens[0].resolve("answer")[1])
    words = [named["names"][number] for number in arrays["likely"][3, place]]
    assert words == likely.texts[3, 0, place].tolist()
    with pytest.raises(probe.errors.InvalidRead, match="other axes than a page takes"):
        probe.views.page(trace, wide_image, to=tmp_path / "other.html", likely=likely.isel(layer=0))


def test_a_trace_without_attention_or_without_a_grid_has_a_page(
    model: probe.Probe, answer: probe.Answer, wide_image: Image.Image, tmp_path: Path
) -> None:
    states = model.run(answer, probe.Hidden([3], at=("image", "answer")))
    header, arrays = unpacked(probe.views.page(states, wide_image, to=tmp_path / "states.html"))
    assert (list(header["maps"]), header["notes"]) == (["cosine"], ["No attention from text to the image was read."])
    bare = probe.load(model=model.model).run(answer.inputs, probe.Attention([1], query=-1, key="image"))
    header, arrays = unpacked(probe.views.page(bare, wide_image, to=tmp_path / "bare.html"))
    assert header["views"] == [{"name": "image", "image": 0}]
    np.testing.assert_allclose(arrays["attention 0 low"], bare.attention(layer=1).data[0].sum(-1), rtol=1e-6)
    assert "lie is not known" in header["notes"][-1]
    logits = model.run(answer, probe.Logits(at=-1))
    header, _ = unpacked(probe.views.page(logits, wide_image, to=tmp_path / "logits.html"))
    assert (header["maps"], len(header["notes"])) == ({}, 2)


def test_a_page_is_refused_before_anything_is_written(
    model: probe.Probe, trace: probe.Trace, answer: probe.Answer, wide_image: Image.Image, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    with pytest.raises(probe.errors.GridUnknown, match="Image 0 has 80 x 40 pixels"):
        probe.views.page(trace, wide_image.rotate(90, expand=True), to=path)
    with pytest.raises(probe.errors.GridUnknown, match="2 images were given, and 1 were encoded"):
        probe.views.page(trace, [wide_image, wide_image], to=path)
    with pytest.raises(probe.errors.InvalidRead, match="tokens=0"):
        probe.views.page(trace, wide_image, to=path, tokens=0)
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(probe.errors.OutputError, match="overwrite=True"):
        probe.views.page(trace, wide_image, to=path)
    assert path.read_text() == "mine"
    assert probe.views.page(trace, wide_image, to=path, overwrite=True).stat().st_size > 10_000
