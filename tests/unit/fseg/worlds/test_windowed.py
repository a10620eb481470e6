"""The forwards of Qwen2.5-VL that are used in training give what Hugging Face's own give."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from fseg.worlds.training import fast, windowed

IMAGE = 3
VISION = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 4,
    "window_size": 16,
    "out_hidden_size": 32,
    "fullatt_block_indexes": [1],
}
TEXT = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
}


@pytest.fixture(scope="module")
def model() -> Qwen2_5_VLForConditionalGeneration:
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(vision_config=VISION, text_config=TEXT, image_token_id=IMAGE, vision_start_token_id=4, vision_end_token_id=5)
    built = Qwen2_5_VLForConditionalGeneration(config).eval()
    for weight in built.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return built


def as_patches(pixels: torch.Tensor) -> torch.Tensor:
    """The input of Hugging Face's tower: patches by cell, each twice, as two frames."""
    batch, channels, height, width = pixels.shape
    parts = pixels.view(batch, channels, height // 8, 2, 4, width // 8, 2, 4).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return parts.reshape(-1, channels, 1, 4, 4).expand(-1, -1, 2, -1, -1).reshape(-1, channels * 2 * 16)


@pytest.mark.parametrize(("rows", "cols"), [(4, 4), (3, 5), (2, 6)], ids=["whole windows", "cut windows", "three windows"])
def test_the_tower_gives_the_merged_cells_in_row_major_order(model: Qwen2_5_VLForConditionalGeneration, rows: int, cols: int) -> None:
    """Max abs difference, float32, atol 1e-4: sums of some hundred products of values around 1 in another order."""
    pixels = torch.randn(2, 3, rows * 8, cols * 8)
    grid = torch.tensor([[1, rows * 2, cols * 2]] * 2)
    with torch.no_grad():
        expected = model.model.visual(as_patches(pixels), grid).pooler_output
        found = windowed.tower(model.model.visual, pixels)
    torch.testing.assert_close(found.flatten(0, 1), expected, atol=1e-4, rtol=1e-4)


def test_empty_windows_change_nothing(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Max abs difference, float32, atol 1e-4, as above."""
    visual, pixels = model.model.visual, torch.randn(1, 3, 24, 40)
    places = windowed.arranged(3, 5, window=2, merge=2, windows=9)
    assert len(places.index) == 9 * 16
    with torch.no_grad():
        found = windowed.forward(visual, windowed.cut(pixels, 4, places), places.real, places.row, places.col)[:, places.back]
        torch.testing.assert_close(found, windowed.tower(visual, pixels), atol=1e-4, rtol=1e-4)


def test_a_head_starts_with_a_look_at_one_neighbour(model: Qwen2_5_VLForConditionalGeneration) -> None:
    visual = type(model.model.visual)(model.model.visual.config)
    windowed.initialise_locally(visual)
    seen: list[torch.Tensor] = []
    places = windowed.arranged(4, 4, window=2, merge=2)
    keep = visual.blocks[1].attn.qkv.register_forward_hook(lambda _, __, packed: seen.append(packed))  # a block that attends globally
    with torch.no_grad():
        windowed.forward(visual, torch.zeros(1, 64, 48), places.real, places.row, places.col)
    keep.remove()
    query, key, _ = seen[0].view(64, 3, 2, 16).permute(1, 2, 0, 3)
    cos, sin = windowed._axial(places.row, places.col, 16, visual.config.rope_parameters["rope_theta"])
    scores = fast.rotate(query, cos, sin) @ fast.rotate(key, cos, sin).transpose(-1, -2)
    middle = int(((places.row == 4) & (places.col == 4)).nonzero())
    looked = scores[0, middle].argmax()
    distance = (places.row[looked] - 4).abs() + (places.col[looked] - 4).abs()
    assert 1 <= distance <= 2


def test_packed_turns_behind_an_image_have_its_positions(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Max abs difference, float32, atol 1e-4, as above."""
    rows, cols = 3, 5
    pixels = torch.randn(1, 3, rows * 8, cols * 8)
    before, turns = torch.tensor([7, 8, 4]), torch.tensor([[5, 9, 10], [5, 11, 12]])
    embed = model.get_input_embeddings()
    with torch.no_grad():
        prefix = torch.cat([embed(before)[None], windowed.tower(model.model.visual, pixels)], 1)
        rope = windowed.rope(model.config.text_config, len(before), rows, cols, turns.shape[1])
        last, _, _ = fast.decoder(model.model.language_model, prefix, embed(turns)[None], rope=rope)
        for k, turn in enumerate(turns):
            ids = torch.cat([before, torch.full((rows * cols,), IMAGE), turn])[None]
            alone = model(
                input_ids=ids,
                mm_token_type_ids=(ids == IMAGE).int(),
                pixel_values=as_patches(pixels),
                image_grid_thw=torch.tensor([[1, rows * 2, cols * 2]]),
                output_hidden_states=True,
            )
            torch.testing.assert_close(last[:, k], alone.hidden_states[-1][:, -len(turn) :], atol=1e-4, rtol=1e-4)
