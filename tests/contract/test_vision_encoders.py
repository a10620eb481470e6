"""Vision encoders without a decoder: their states and attention are plain Hugging Face's, and fold onto the image.

States are of the same kernel: 0. Attention rows from a separate eager forward differ by the order of sums: 1e-6.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import probe
from probe import edit
from tests import hooked
from tests.families import encoders

# What the processor shows of an image of 40 x 80 pixels, in its pixels, and rows x cols of patches.
CENTRE, WHOLE = (20.0, 0.0, 60.0, 40.0), (0.0, 0.0, 80.0, 40.0)
GRIDS = {
    **dict.fromkeys(("clip", "clip_vision_model", "metaclip_2"), (CENTRE, 4, 4)),
    **dict.fromkeys(("siglip", "siglip_vision_model", "dinov3_vit", "vit", "beit", "ijepa", "vit_msn"), (WHOLE, 4, 4)),
    **dict.fromkeys(("siglip2", "siglip2_vision_model"), (WHOLE, 3, 6)),  # 18 of at most 24 patches, nearest to the aspect ratio
    **dict.fromkeys(("dinov2", "dinov2_with_registers"), ((22.5, 2.5, 57.5, 37.5), 4, 4)),  # 56 of 64 resized pixels
    "deit": ((80 / 6, 40 / 6, 80 * 5 / 6, 40 * 5 / 6), 4, 4),  # 56 of 84, stretched
}
NAMES = sorted(encoders.ENCODERS)


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> probe.Probe:
    hf, processor = encoders.build(request.param)
    return probe.load(model=hf, processor=processor)


def tower(model: probe.Probe) -> Any:
    return getattr(model.model, "vision_model", model.model)


def test_the_grids_that_are_expected_are_of_every_encoder() -> None:
    assert sorted(GRIDS) == NAMES


def test_states_are_hugging_faces_and_fold_onto_the_image(model: probe.Probe, wide_image: Image.Image) -> None:
    x = model.encode(wide_image, "")
    trace = model.run(x, probe.Vision("all"))
    with torch.no_grad():
        theirs = tower(model)(**x.inputs, output_hidden_states=True).hidden_states
    box, rows, cols = GRIDS[model.family]
    assert len(theirs) == 4
    # The last of Hugging Face's may be after the tower's norm; ours is what the last block returns.
    for layer, state in enumerate(theirs[:-1]):
        patches = state[:, : rows * cols] if model.family.startswith("siglip2") else state[:, -rows * cols :]
        assert float((trace.vision(layer=layer).data - patches).abs().max()) == 0
    grid = x.tokens.layouts[0].grid()
    assert (grid.rows, grid.cols, grid.image_size) == (rows, cols, (40, 80))
    assert grid.box == pytest.approx(box)
    assert trace.vision(layer=-1).grid().data.shape == (1, rows, cols, 32)
    assert trace.vision(layer=-1).mean("feature").grid().to_pixels().data.shape == (1, 40, 80)
    assert len(x.tokens.span("image")) == rows * cols


def test_attention_is_that_of_eager_attention(model: probe.Probe, wide_image: Image.Image) -> None:
    x = model.encode(wide_image, "")
    ours = model.run(x, probe.VisionAttention("all"))[probe.VisionAttention("all")].data
    eager = copy.deepcopy(tower(model))
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        theirs = eager(**x.inputs, output_attentions=True).attentions
    assert float((ours - torch.stack(theirs)).abs().max()) < 1e-6


def test_the_patch_that_moves_most_is_the_painted_cell(model: probe.Probe, wide_image: Image.Image) -> None:
    x = model.encode(wide_image, "")
    grid, before = x.tokens.layouts[0].grid(), model.run(x, probe.Vision(0)).vision().data[0]
    for row, col in ((0, 0), (0, grid.cols - 1), (1, 2), (grid.rows - 1, 0), (grid.rows - 1, grid.cols - 1)):
        painted = np.array(wide_image)
        left, top, right, bottom = (round(edge) for edge in grid.cell_box(row, col))
        painted[top:bottom, left:right] = 255 - painted[top:bottom, left:right]
        after = model.run(model.encode(Image.fromarray(painted), ""), probe.Vision(0)).vision().data[0]
        assert int((after - before).norm(dim=-1).argmax()) == row * grid.cols + col


def test_a_batch_of_pixel_values_folds_onto_the_towers_input(model: probe.Probe, wide_image: Image.Image) -> None:
    one = model.encode(wide_image, "").inputs
    batch = {name: torch.cat([value, value]) for name, value in one.items()}
    bare = probe.load(model=model.model)
    states = bare.run(batch, probe.Vision(1)).vision()
    _, rows, cols = GRIDS[model.family]
    assert states.grid().data.shape == (2, rows, cols, 32)
    assert states.layout.grid().image_size == (14 * rows, 14 * cols)
    alone = bare.run(one, probe.Vision(1)).vision().data[0]
    assert float((states.data[1] - alone).abs().max()) < 1e-5  # of another batch size


@pytest.mark.parametrize(
    "read",
    [
        probe.Hidden(0),
        probe.Attention(0, query=-1),
        probe.AttentionOutput(0),
        probe.MLPOutput(0),
        probe.HeadOutput(0),
        probe.Queries(0),
        probe.Keys(0),
        probe.Values(0),
        probe.Projected(),
        probe.Logits(),
    ],
    ids=lambda read: type(read).__name__,
)
def test_reads_of_a_decoder_are_refused(read: Any, wide_image: Image.Image) -> None:
    model = probe.load(model=encoders.build("dinov2")[0], processor=encoders.build("dinov2")[1])
    reason = r"cannot be read from this family: dinov2 is a vision encoder without a text decoder\. Read Vision\(\) or VisionAttention\(\)"
    with pytest.raises(probe.errors.InvalidRead, match=reason):
        model.run(model.encode(wide_image, ""), read)
    assert "dinov2 is a vision encoder" in model.inspect()[type(read).__name__]


def test_what_needs_a_decoder_is_refused(wide_image: Image.Image) -> None:
    hf, processor = encoders.build("clip")
    model = probe.load(model=hf, processor=processor)
    x = model.encode(wide_image, "")
    states = model.run(x, probe.Vision(1)).vision()
    for name, step in {
        "generate": lambda: model.generate(x),
        "next_logits": lambda: model.next_logits(x),
        "verify": lambda: probe.verify(model),
        "open": lambda: model.open(wide_image),
        "lens": lambda: model.lens(states, words=(5,)),
        "attribute_logits": lambda: model.attribute_logits(x, plus=5, minus=6),
        "gradients": lambda: model.gradients(x, of=probe.LogitDifference(5, 6), to=[probe.Vision(1)]),
    }.items():
        with pytest.raises(probe.errors.InvalidRead, match=rf"{name}\(\) needs a text decoder, and clip is a vision encoder"):
            step()
    with pytest.raises(probe.errors.TemplateError, match=r"clip is a vision encoder, which reads no text: 'a cat'\. Pass an empty one"):
        model.encode(wide_image, "a cat")
    with pytest.raises(probe.errors.ImageError, match="of one image, 2 were given"):
        model.encode([wide_image, wide_image], "")
    with pytest.raises(probe.errors.TemplateError, match="reads and writes no text"):
        x.with_answer("a cat")
    with pytest.raises(probe.errors.TemplateError, match="answers nothing"):
        x.with_answer_ids((5,))
    with pytest.raises(probe.errors.InvalidRead, match=r"a plain encoding has pixel_values, this one has input_ids"):
        model.run({"input_ids": torch.tensor([[1, 2]])}, probe.Vision(1))
    with pytest.raises(probe.errors.InvalidRead, match=r"which tokens of a module of a vision encoder are patches is not known"):
        model.run(x, probe.Module("vision_model.encoder.layers.0", at="image"))


def test_an_edit_of_the_tower_is_what_a_hook_does(wide_image: Image.Image) -> None:
    hf, processor = encoders.build("dinov3_vit")
    model = probe.load(model=hf, processor=processor)
    x = model.encode(wide_image, "")
    ours = model.run(x, probe.Vision(-1), edits=edit.scale(probe.Vision(1), 2.0)).vision()

    def doubled(states: torch.Tensor) -> torch.Tensor:
        return torch.cat([states[:, :-16], 2 * states[:, -16:]], dim=1)

    path = model.modules.vision_blocks[0]
    with hooked.module(hf, path, doubled), torch.no_grad():
        theirs = model.run(x, probe.Vision(-1)).vision()
    assert float((ours.data - theirs.data).abs().max()) == 0
    assert float((ours.data - model.run(x, probe.Vision(-1)).vision().data).abs().max()) > 1e-3


def test_a_tower_that_is_not_finite_names_the_state(wide_image: Image.Image) -> None:
    hf, processor = encoders.build("vit")
    model = probe.load(model=hf, processor=processor)
    with torch.no_grad():
        hf.get_submodule(model.modules.vision_blocks[1]).attention.o_proj.bias.fill_(float("nan"))
    with pytest.raises(probe.errors.NotFinite, match=r"It begins in state 2 of the vision tower"):
        model.run(model.encode(wide_image, ""), probe.Vision(-1))


def test_an_encoder_that_nobody_declared_has_states_without_a_grid(wide_image: Image.Image) -> None:
    from transformers import SwinConfig, SwinModel, ViTImageProcessor

    config = SwinConfig(image_size=56, patch_size=4, embed_dim=16, depths=[1, 2], num_heads=[2, 4], window_size=7)
    processor = ViTImageProcessor(size={"height": 56, "width": 56})
    model = probe.load(model=SwinModel(config), processor=processor)
    trace = model.run(model.encode(wide_image, ""), probe.Vision("all"))
    assert [trace.vision(layer=layer).data.shape[1:] for layer in range(3)] == [(196, 16), (49, 32), (49, 32)]
    with pytest.raises(probe.errors.NotRead, match="states of different shapes"):
        trace.vision()
    with pytest.raises(probe.errors.GridUnknown):
        trace.vision(layer=1).grid()


def test_an_encoding_of_an_image_alone_can_be_sent_to_another_process(wide_image: Image.Image) -> None:
    import pickle

    hf, processor = encoders.build("siglip")
    x = probe.load(model=hf, processor=processor).encode(wide_image, "")
    assert pickle.loads(pickle.dumps(x)) == x
    assert x.tokens.text() == ""
