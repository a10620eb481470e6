"""Videos: encoded as each family's own processor does, states equal to Hugging Face's, and folded onto the frames: painting proves it.

Frames are 120 x 200 pixels; the video processors have their default settings. Hidden states are of the same kernel, in float32: 0.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import probe
from probe.backbones.registry import families_of_videos
from probe.errors import GridUnknown, ImageError, InvalidRead, PackageNeeded, TemplateError
from tests import families
from tests.contract import test_encode
from tests.contract.parity import hidden_difference
from tests.families.daily import daily
from tests.processors.videos import VIDEOS, template

SIZE = (120, 200)
# Hugging Face 5.23 splits Kimi's pooled chunks by the frames before pooling, and raises.
UNPROVEN = {"kimi_k25"}


@cache
def opened(name: str) -> probe.Probe:
    hf, processor = VIDEOS[name]()
    return probe.load(model=hf, processor=processor)


def frames(count: int = 5, size: tuple[int, int] = SIZE, seed: int = 0) -> np.ndarray[Any, Any]:
    """Noise of blocks of 4 x 4 pixels, each channel black or white: the opposite of a cell is far from it everywhere."""
    (height, width), random = size, np.random.default_rng(seed)
    blocks = random.integers(0, 2, (count, height // 4, width // 4, 3), dtype=np.uint8) * 255
    return np.stack([np.asarray(Image.fromarray(block).resize((width, height), Image.Resampling.BICUBIC)) for block in blocks])


def encode(name: str, video: Any, **options: Any) -> probe.Encoding:
    return opened(name).encode(None, "What happens?", videos=video, template=template(name), **options)


def projected(name: str, video: Any) -> probe.Activation:
    """The video's tokens as the first block takes them."""
    return opened(name).run(encode(name, video), probe.Hidden([0], at="video")).hidden(layer=0)


def test_every_family_that_lays_out_videos_is_painted() -> None:
    assert set(families_of_videos()) - UNPROVEN <= set(VIDEOS)


@pytest.mark.parametrize("name", daily(VIDEOS))
def test_painting_a_cell_of_a_frame_moves_the_token_of_that_frame_and_cell_most(name: str) -> None:
    video = frames()
    before = projected(name, video)
    layout, maps = before.layout, before.grid()
    assert isinstance(layout, probe.VideoLayout)
    assert maps.dims[1:4] == ("frame", "row", "col")
    grid, random = layout.grid(), np.random.default_rng(1)
    x0, y0, x1, y1 = grid.cell_box(0, 0)
    assert grid.image_size == SIZE
    assert 0.4 < (x1 - x0) / (y1 - y0) < 2.6  # a square frame is stretched; on its side this would be far off
    for frame in (0, 3, 4):
        row, col = (int(random.integers(1, count - 1)) for count in (grid.rows, grid.cols))
        left, top, right, bottom = (max(round(edge), 0) for edge in grid.cell_box(row, col))
        painted = video.copy()
        painted[frame, top:bottom, left:right] = 255 - painted[frame, top:bottom, left:right]
        moved = (projected(name, painted).grid().data - maps.data)[0].norm(dim=-1)
        step, *cell = np.unravel_index(int(moved.argmax()), moved.shape)
        assert frame in layout.frames[step]
        assert [int(index) for index in cell] == [row, col]


@pytest.mark.parametrize("name", daily(VIDEOS))
def test_inputs_are_the_processors_and_states_hugging_faces(name: str) -> None:
    model, video = opened(name), frames()
    encoding = encode(name, video)
    assert model.processor is not None
    expected = dict(
        model.processor(videos=[video], text=encoding.prompt, return_tensors="pt", do_sample_frames=False, return_metadata=True)
    )
    expected.pop("video_metadata", None)
    assert set(expected) == set(encoding.inputs)
    for key, value in expected.items():
        assert torch.equal(torch.as_tensor(encoding.inputs[key]), torch.as_tensor(value)), key
    given = model.backbone.forward_inputs(model.model, encoding.inputs)  # what cosmos3_edge's processor leaves out
    assert hidden_difference(model, model.run(encoding, probe.Hidden("all")), given) == 0


def test_merged_frames_share_their_tokens_and_a_frame_is_a_part_of_the_video() -> None:
    model, encoding = opened("qwen2_vl"), encode("qwen2_vl", frames())
    tokens = encoding.tokens
    assert tokens.video_layouts[0] is not None
    assert tokens.video_layouts[0].frames == ((0, 1), (2, 3), (4,))
    assert tokens.span("frame 2").positions == tokens.span("frame 3").positions
    assert tokens.span("video").positions == tokens.span("video 0").positions
    trace = model.run(encoding, probe.Hidden([2], at=("video", "frame 3")))
    video, frame = trace.hidden("video", layer=2).grid(), trace.hidden("frame 3", layer=2).grid()
    assert video.coords["frame"] == (0, 2, 4)
    assert torch.equal(video.sel(frame=2).data, frame.data)


def test_a_words_similarity_over_time_is_a_map_on_each_frames_pixels() -> None:
    model = opened("internvl")
    encoding = encode("internvl", list(map(Image.fromarray, frames(3)))).with_answer("A cat jumps.")
    trace = model.run(encoding, probe.Hidden([2], at=("video", encoding.tokens.word("cat"))))
    video, word = trace.hidden("video", layer=2), trace.hidden(encoding.tokens.word("cat"), layer=2)
    heat = video.cosine(word.isel(token=-1)).grid()
    assert heat.shape == {"batch": 1, "frame": 3, "row": 16, "col": 16}
    assert heat.to_pixels().shape == {"batch": 1, "frame": 3, "height": 120, "width": 200}
    with pytest.raises(GridUnknown, match="A video has one"):
        video.grid("tiles")


def test_the_pages_example_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "probe.md").read_text()
    example = page.split("## Several images, and videos")[1].split("```python")[1].split("```")[0]
    hf, processor = VIDEOS["qwen2_5_vl"]()
    parts = "{% if c['type'] == 'text' %}{{ c['text'] }}{% else %}<|vision_start|><|{{ c['type'] }}_pad|><|vision_end|>{% endif %}"
    processor.chat_template = "{% for m in messages %}{% for c in m['content'] %}" + parts + "{% endfor %}{% endfor %}"
    left, right = (Image.fromarray(frames(1, size)[0]) for size in ((64, 96), (96, 64)))
    names: dict[str, Any] = {"probe": probe, "model": probe.load(model=hf, processor=processor), "left": left, "right": right}
    exec(example, names | {"frames": frames(6)}, names)
    assert names["heat"].grid().shape == {"layer": 1, "batch": 1, "frame": 3, "row": 9, "col": 15}
    assert {"video", "frame 5"} <= set(names["x"].tokens.spans)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_onevision", "internvl", "qwen3_vl"])
def test_images_and_videos_of_one_prompt_are_told_apart(name: str) -> None:
    model, image, video = opened(name), Image.fromarray(frames(1)[0]), frames(4)
    written = "<image>" + template(name)
    encodings = [model.encode(image, "What happens?", videos=[video, frames(4, (64, 64), seed)], template=written) for seed in (1, 2)]
    tokens = encodings[0].tokens
    assert [name for name in tokens.spans if name.endswith(" 0")] == ["image 0", "video 0", "video 0 frame 0", "video 1 frame 0"]
    one, other = (model.run(encoding, probe.Hidden([0], at=None)).hidden(layer=0).data for encoding in encodings)
    moved = set((one - other).abs().amax((0, -1)).nonzero().flatten().tolist())
    second = set(tokens.span("video 1").positions)
    assert moved <= second
    assert len(second - moved) <= 1  # OneVision ends a video with a newline token


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_onevision", "internvl"])
def test_variants_of_a_video_equal_edited_runs(name: str) -> None:
    model, encoding = opened(name), encode(name, frames(2))
    read = probe.Hidden([3, 4], at=-1)
    variants = [[probe.edit.zero(probe.MLPOutput(2, at=-1))], [probe.edit.scale(probe.Hidden(2, at="frame 1"), 0.5)]]
    for trace, edits in zip(model.run_variants(encoding, read, variants), variants, strict=True):
        expected = model.run(encoding, read, edits=edits)
        # As all variants do: another order of sums, 1e-5 of the largest state (max abs).
        assert (trace.hidden().data - expected.hidden().data).abs().max() < 1e-5 * expected.hidden().data.abs().max()


def test_an_answer_about_a_video_goes_on_after_it() -> None:
    model, encoding = opened("smolvlm"), encode("smolvlm", frames(2))
    answer = model.generate(encoding, max_new_tokens=3)
    inputs = dict(encoding.inputs.items())
    expected = model.model.generate(**inputs, max_new_tokens=3, do_sample=False, suppress_tokens=[model.model.config.image_token_id])
    assert answer.tokens.ids == tuple(expected[0].tolist())


def test_a_forward_that_drops_tokens_of_a_video_is_refused() -> None:
    hf, inputs = families.build("nemotron_h_omni")
    hf.video_pruning_rate = 0.5
    given = {"input_ids": inputs["input_ids"], "pixel_values_videos": torch.zeros(2, 3, 16, 16)}
    with pytest.raises(InvalidRead, match=r"video_pruning_rate=0.5: .* drops tokens of a video, .* = 0 on the Hugging Face model"):
        probe.load(model=hf).run(given, probe.Hidden([1]))


def test_a_family_without_videos_names_some_that_take_them() -> None:
    with pytest.raises(ImageError, match=r"gemma3n takes no videos: Gemma3nProcessor .* gemma4, .*qwen2_vl"):
        test_encode.opened("gemma3n").encode(None, "What happens?", videos=frames())


def test_inspect_says_whether_videos_are_taken_and_folded() -> None:
    assert opened("qwen2_vl").inspect()["videos"] == "taken by Qwen2VLProcessor, folded to (frame, row, col) by MergedPatches"
    assert opened("molmo2").inspect()["videos"] == "taken by Molmo2Processor, folded to (frame, row, col) by Molmo2"
    assert test_encode.opened("minicpmv4_6").inspect()["videos"] == "taken by MiniCPMV4_6Processor, not folded: no grid is declared"
    assert "not folded: a Q-Former resamples" in test_encode.opened("instructblipvideo").inspect()["videos"]
    assert test_encode.opened("gemma3n").inspect()["videos"] == "none: Gemma3nProcessor prepares none"
    assert probe.load(model=opened("qwen2_vl").model).inspect()["videos"] == "not known without a processor"


def test_frames_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ImageError, match="no frames"):
        encode("qwen2_vl", [])
    with pytest.raises(ImageError, match=r"one size, .* these have \[\(20, 20\), \(20, 30\)\]"):
        encode("qwen2_vl", [np.zeros((20, 20, 3), np.uint8), np.zeros((20, 30, 3), np.uint8)])
    with pytest.raises(ImageError, match=r"\(frame, height, width, 3\), this one has shape \(20, 20, 3\)"):
        encode("qwen2_vl", np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(TemplateError, match="absolute aspect ratio"):
        encode("qwen2_vl", frames(2, (4, 1000)))
    with pytest.raises(ImageError, match=r"one video of 4 frames, given were videos of \[5\] frames"):
        test_encode.opened("instructblipvideo").encode(None, "What happens?", videos=frames())


def test_smolvlm_takes_images_or_videos() -> None:
    with pytest.raises(ImageError, match="a prompt has either"):
        opened("smolvlm").encode(Image.fromarray(frames(1)[0]), "Same?", videos=frames(), template="<image><video>{question}")


def test_a_question_that_holds_the_video_token_is_refused() -> None:
    with pytest.raises(TemplateError, match=r"holds the image token .<\|video_pad\|>"):
        opened("qwen2_vl").encode(None, "What is <|video_pad|>?", videos=frames(2), template=template("qwen2_vl"))


def test_a_files_frames_are_sampled_by_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip.mp4"
    with pytest.raises(ImageError, match="No video file"):
        encode("qwen3_vl", path)
    path.write_bytes(b"not decoded here")
    processor: Any = opened("qwen3_vl").processor
    from transformers.video_utils import VideoMetadata

    asked: list[Any] = []

    def decoded(video: str, sample_indices_fn: Any = None) -> tuple[Any, VideoMetadata]:
        asked.append((video, sample_indices_fn))
        return frames(4), VideoMetadata(total_num_frames=8, fps=4.0, frames_indices=[0, 2, 4, 6], duration=2.0)

    monkeypatch.setattr(processor.video_processor, "fetch_videos", decoded)
    encoding = encode("qwen3_vl", path)
    assert asked == [(str(path), processor.video_processor.sample_frames)]
    assert "<0.2 seconds>" in encoding.tokens.text()  # frames 0 and 2 at 4 a second, in the middle of which is 0.25

    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("torchcodec is not installed")

    monkeypatch.setattr(processor.video_processor, "fetch_videos", missing)
    with pytest.raises(PackageNeeded, match="pip install torchcodec"):
        encode("qwen3_vl", path)


def test_frames_that_hardly_change_have_fewer_tokens_in_video_llama_3() -> None:
    tokens = encode("video_llama_3", np.repeat(frames(1), 4, axis=0)).tokens
    assert tokens.video_layouts == (None,)
    assert "frame 0" not in tokens.spans
    assert len(tokens.span("video")) < 4 * 135


@pytest.mark.parametrize(("name", "count", "tokens"), [("minicpmv4_6", 2, 76), ("instructblipvideo", 4, 16)])
def test_a_video_without_a_layout_is_a_span_that_does_not_fold(name: str, count: int, tokens: int) -> None:
    model = test_encode.opened(name)
    written = None if name == "instructblipvideo" else "<video>{question}"
    encoding = model.encode(None, "What happens?", videos=frames(count), template=written)
    assert len(encoding.tokens.span("video 0")) == tokens  # 38 for each frame's view and slices; 4 queries for each frame
    assert "frame 0" not in encoding.tokens.spans
    trace = model.run(encoding, probe.Hidden("all", at=None))
    assert hidden_difference(model, trace, encoding.inputs) == 0
    reason = "each query attends to all of the image" if name == "instructblipvideo" else "does not say where"
    with pytest.raises(GridUnknown, match=reason):
        model.run(encoding, probe.Hidden([1], at="video")).hidden(layer=1).grid()
