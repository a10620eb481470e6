"""What CONTRIBUTING.md says of a new family: one line where a shared layout fits, at most 30 lines where none does, proved by `probe.verify`.

Two families are taken out of the registry and declared again: without the lines below, their image tokens cannot be folded into a grid.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import transformers as hf

import probe
from probe.backbones import ProcessedImage, registry
from probe.backbones.shared.native_resolution import MergedPatches
from probe.backbones.shared.square_tower import SquareTower
from tests.contract.test_grids import noise_image
from tests.processors.offline import PATCH, TILE, Pair, model, template, tokenizer


class DeepseekVL(SquareTower):
    """The image in the middle of a padded square, one image token for each patch, row by row."""

    def layout(self, image: ProcessedImage) -> probe.ImageLayout:
        height, width = image.size
        side, longest = image.tokens_per_side, max(image.size)
        left, top = (longest - width) / 2, (longest - height) / 2
        box = (-left, -top, width + left, height + top)  # of the padded square, in pixels of the original image
        return probe.ImageLayout((probe.Grid.whole(side, side, image.size, box=box),))


def deepseek_vl() -> Pair:
    words = tokenizer(image_token="<image_placeholder>")
    images = hf.DeepseekVLImageProcessor(size={"height": TILE, "width": TILE}, min_size=PATCH)
    tokens = (TILE // PATCH) ** 2
    processor = hf.DeepseekVLProcessor(images, words, chat_template=template("<image_placeholder>"), num_image_tokens=tokens)
    return model("deepseek_vl", words, image_token_id="<image_placeholder>"), processor


def qwen3_vl_moe() -> Pair:
    pad, video, start, end = names = "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
    words = tokenizer(*names)
    hf_model = model("qwen3_vl_moe", words, image_token_id=pad, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end)
    patch = hf_model.config.vision_config.patch_size
    size = {"shortest_edge": (2 * patch) ** 2, "longest_edge": 30 * (2 * patch) ** 2}
    images = hf.Qwen2VLImageProcessor(patch_size=patch, merge_size=2, temporal_patch_size=2, size=size)
    processor = hf.Qwen3VLProcessor(images, words, hf.Qwen3VLVideoProcessor(), chat_template=template(start + pad + end))
    return hf_model, processor


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it; before it, the two families are undeclared."""
    declared = {name: backbone for name, backbone in registry.BACKBONES.items() if name not in ("deepseek_vl", "qwen3_vl_moe")}
    monkeypatch.setattr(registry, "BACKBONES", declared)


def opened(pair: Pair) -> probe.Probe:
    return probe.load(model=pair[0], processor=pair[1])


def grids(report: Any) -> list[str]:
    return [check.what for check in report.checks if check.what.startswith("Grid")]


@pytest.mark.parametrize("build", [deepseek_vl, qwen3_vl_moe])
def test_an_undeclared_family_has_no_grid(build: Any) -> None:
    report = probe.verify(opened(build()), noise_image("wide"))
    assert "does not say where its image tokens lie" in report.left_out["Grid"]


def test_a_family_that_a_shared_layout_fits_is_one_line() -> None:
    probe.register("qwen3_vl_moe")(MergedPatches)
    report = probe.verify(opened(qwen3_vl_moe()), noise_image("wide"), cells=4)
    assert report.passed, str(report)
    assert grids(report) == ["Grid 'image', 4 x 7"]


def test_another_family_is_at_most_thirty_lines() -> None:
    probe.register("deepseek_vl")(DeepseekVL)
    assert len(inspect.getsource(DeepseekVL).splitlines()) <= 30
    model = opened(deepseek_vl())
    report = probe.verify(model, noise_image("wide"), cells=4)
    assert report.passed, str(report)
    assert grids(report) == ["Grid 'image', 4 x 4"]
    projected = model.run(model.encode(noise_image("wide"), "What is this?"), probe.Projected()).projected()
    assert (projected.grid().shape["row"], projected.grid().shape["col"]) == (4, 4)
