"""The forwards of Qwen2-VL that are used in training give what Hugging Face's own give."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from fseg.worlds.training import fast, merged

IMAGE = 3
VISION = {
    "depth": 3,
    "embed_dim": 32,
    "mlp_ratio": 2,
    "num_heads": 2,
    "patch_size": 4,
    "hidden_size": 32,
    "rope_parameters": {"rope_type": "axial", "rope_theta": 100.0},
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
def model() -> Qwen2VLForConditionalGeneration:
    torch.manual_seed(0)
    config = Qwen2VLConfig(vision_config=VISION, text_config=TEXT, image_token_id=IMAGE, vision_start_token_id=4, vision_end_token_id=5)
    built = Qwen2VLForConditionalGeneration(config).eval()
    for weight in built.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return built


def as_patches(pixels: torch.Tensor) -> torch.Tensor:
    """The input of Hugging Face's tower: patches by cell, each twice, as two frames."""
    batch, channels, height, width = pixels.shape
    parts = pixels.view(batch, channels, height // 8, 2, 4, width // 8, 2, 4).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return parts.reshape(-1, channels, 1, 4, 4).expand(-1, -1, 2, -1, -1).reshape(-1, channels * 2 * 16)


@pytest.mark.parametrize(("rows", "cols"), [(4, 4), (3, 5), (6, 2)])
def test_the_tower_gives_the_merged_cells_in_row_major_order(model: Qwen2VLForConditionalGeneration, rows: int, cols: int) -> None:
    """Max abs difference, float32, atol 1e-4: sums of some hundred products of values around 1 in another order."""
    pixels = torch.randn(2, 3, rows * 8, cols * 8)
    grid = torch.tensor([[1, rows * 2, cols * 2]] * 2)
    with torch.no_grad():
        expected = model.model.visual(as_patches(pixels), grid).pooler_output
        found = merged.tower(model.model.visual, pixels)
    torch.testing.assert_close(found.flatten(0, 1), expected, atol=1e-4, rtol=1e-4)


def test_empty_places_change_nothing(model: Qwen2VLForConditionalGeneration) -> None:
    """Max abs difference, float32, atol 1e-4, as above."""
    visual, pixels = model.model.visual, torch.randn(1, 3, 24, 40)
    places = merged.arranged(3, 5, merge=2, cells=18)
    assert len(places.index) == 18 * 4
    with torch.no_grad():
        found = merged.forward(visual, merged.cut(pixels, 4, places), places.real, places.row, places.col)[:, :15]
        torch.testing.assert_close(found, merged.tower(visual, pixels), atol=1e-4, rtol=1e-4)


def test_a_head_looks_at_one_neighbour() -> None:
    row, col = (each.flatten() for each in torch.meshgrid(torch.arange(9), torch.arange(9), indexing="ij"))
    cos, sin = merged._axial(row, col, 16, 100.0)
    for number in range(3):
        query, key = (each.view(2, 1, 16) for each in merged.neighbours(number, heads=2, size=16, base=100.0, gain=6.0))
        scores = fast.rotate(query, cos, sin) @ fast.rotate(key, cos, sin).transpose(-1, -2) * 16**-0.5
        middle = scores[:, 4 * 9 + 4]
        looked = middle.argmax(-1)
        distance = (row[looked] - 4).abs() + (col[looked] - 4).abs()
        assert (distance >= 1).all()
        assert (distance <= 2).all()
        assert middle.amax() == pytest.approx(6.0, rel=0.1)
        assert len(set(looked.tolist())) == 2


def test_packed_turns_behind_an_image_have_its_positions(model: Qwen2VLForConditionalGeneration) -> None:
    """Max abs difference, float32, atol 1e-4, as above."""
    rows, cols = 3, 5
    pixels = torch.randn(1, 3, rows * 8, cols * 8)
    before, turns = torch.tensor([7, 8, 4]), torch.tensor([[5, 9, 10], [5, 11, 12]])
    embed = model.get_input_embeddings()
    with torch.no_grad():
        prefix = torch.cat([embed(before)[None], merged.tower(model.model.visual, pixels)], 1)
        rope = merged.rope(model.config.text_config, len(before), rows, cols, turns.shape[1])
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
