"""Weights of a SAM: the architecture in the shapes, and files that are not what they should be."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fseg.errors import InvalidSam
from fseg.sam import segment_anything
from fseg.sam.segment_anything import build_sam
from fseg.sam.shapes import shape_of
from fseg.sam.weights import read_weights
from tests.unit.fseg.sams import tiny_sam

from segment_anything import sam_model_registry  # isort: skip  after sams, which makes torchvision importable

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return dict(tiny_sam().state_dict())


@pytest.mark.parametrize(
    ("name", "width", "depth", "heads", "global_blocks"),
    [
        ("vit_b", 768, 12, 12, (2, 5, 8, 11)),
        ("vit_l", 1024, 24, 16, (5, 11, 17, 23)),
        ("vit_h", 1280, 32, 16, (7, 15, 23, 31)),
    ],
)
def test_the_released_architectures_are_told_from_their_shapes(
    name: str, width: int, depth: int, heads: int, global_blocks: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        shape = shape_of(sam_model_registry[name]().state_dict())
    assert (shape.width, shape.depth, shape.heads, shape.global_blocks) == (width, depth, heads, global_blocks)
    assert (shape.image_side, shape.patch, shape.window, shape.mlp_width) == (1024, 16, 14, 4 * width)
    assert (shape.channels, shape.decoder_depth, shape.decoder_mlp_width, shape.decoder_downsample) == (256, 2, 2048, 2)
    assert (shape.mask_tokens, shape.mask_channels, shape.score_depth, shape.score_width) == (4, 16, 3, 256)


def released(name: str) -> State:
    """Zeros in the shapes of a released SAM, in the memory of one number each."""
    with torch.device("meta"):
        shapes = {tensor: value.shape for tensor, value in sam_model_registry[name]().state_dict().items()}
    return {tensor: torch.zeros(()).expand(shape) for tensor, shape in shapes.items()}


def test_a_released_sam_comes_from_segment_anythings_registry(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: State) -> None:
        raise AssertionError("the shapes are read for other sizes only")

    monkeypatch.setattr(segment_anything, "shape_of", refused)
    with torch.device("meta"):
        theirs = sam_model_registry["vit_b"]()
    assert repr(build_sam(released("vit_b"))) == repr(theirs.eval())
    with pytest.raises(AssertionError, match="for other sizes only"):
        build_sam(state)


def test_a_released_sam_without_one_tensor_names_it() -> None:
    weights = released("vit_b")
    del weights["mask_decoder.iou_prediction_head.layers.1.bias"]
    with pytest.raises(InvalidSam, match=r"1 missing \(mask_decoder\.iou_prediction_head\.layers\.1\.bias\)"):
        build_sam(weights)


def test_a_small_architecture_is_told_from_its_shapes(state: State) -> None:
    shape = shape_of(state)
    assert (shape.image_side, shape.patch, shape.width, shape.depth, shape.heads, shape.mlp_width) == (64, 8, 32, 3, 2, 96)
    assert (shape.window, shape.global_blocks) == (3, (1,))
    assert (shape.channels, shape.mask_channels, shape.score_depth, shape.score_width) == (32, 8, 3, 24)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_gives_back_the_weights_saved(state: State, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"sam{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    built = build_sam(read_weights(path)).state_dict()
    assert built.keys() == state.keys()
    assert all(torch.equal(built[name], state[name]) for name in state)


def test_a_bfloat16_file_is_loaded_as_float32(state: State, tmp_path: Path) -> None:
    save_file({name: value.bfloat16() for name, value in state.items()}, tmp_path / "sam.safetensors")
    built = build_sam(read_weights(tmp_path / "sam.safetensors"))
    assert {parameter.dtype for parameter in built.parameters()} == {torch.float32}


def test_the_tensors_read_become_the_parameters_without_a_copy(state: State) -> None:
    built = build_sam(state)
    assert all(parameter.data_ptr() == state[name].data_ptr() for name, parameter in built.named_parameters())


def test_no_buffer_is_left_without_storage(state: State) -> None:
    built = build_sam(state)
    assert built.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert not any(tensor.is_meta for tensor in (*built.parameters(), *built.buffers()))


def test_a_missing_tensor_is_named(state: State) -> None:
    broken = {name: value for name, value in state.items() if name != "mask_decoder.iou_prediction_head.layers.1.bias"}
    with pytest.raises(InvalidSam, match=r"1 missing \(mask_decoder\.iou_prediction_head\.layers\.1\.bias\)"):
        build_sam(broken)


def test_a_tensor_that_no_sam_has_is_named(state: State) -> None:
    with pytest.raises(InvalidSam, match=r"1 not SAM's \(mask_decoder\.hf_token\.weight\)"):
        build_sam(state | {"mask_decoder.hf_token.weight": torch.zeros(1, 32)})


def test_a_tensor_of_another_shape_is_named(state: State) -> None:
    with pytest.raises(InvalidSam, match=r"another shape than the rest implies \(mask_decoder\.mask_tokens\.weight \(4, 31\)\)"):
        build_sam(state | {"mask_decoder.mask_tokens.weight": torch.zeros(4, 31)})


def test_another_model_is_refused_by_what_it_lacks() -> None:
    with pytest.raises(InvalidSam, match=r"No tensor 'image_encoder\.pos_embed' among these 1 \(fc\.weight\)"):
        shape_of({"fc.weight": torch.zeros(2, 2)})


def test_weights_under_the_names_of_transformers_are_sent_to_their_folder() -> None:
    with pytest.raises(InvalidSam, match="Pass the folder"):
        shape_of({"vision_encoder.pos_embed": torch.zeros(1, 8, 8, 32)})


def test_windows_of_two_sizes_are_refused(state: State) -> None:
    with pytest.raises(InvalidSam, match=r"attention over \[2, 3, 8\] patches"):
        shape_of(state | {"image_encoder.blocks.0.attn.rel_pos_h": torch.zeros(3, 16)})


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 5, 4000])
def test_a_truncated_file_is_refused(state: State, tmp_path: Path, suffix: str, kept: int) -> None:
    path = tmp_path / f"sam{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InvalidSam, match=r"truncated|no PyTorch file"):
        read_weights(path)


class _Spy:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize(
    "write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))], ids=["torch", "pickle"]
)
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, write: object) -> None:
    path = tmp_path / "sam.pth"
    write({"a": _Spy(tmp_path / "ran")}, path)  # type: ignore[operator]
    with pytest.raises(InvalidSam, match="whose code we do not run"):
        read_weights(path)
    assert not (tmp_path / "ran").exists()


def test_a_training_checkpoint_is_told_from_plain_weights(state: State, tmp_path: Path) -> None:
    torch.save({"model": state, "epoch": 3}, tmp_path / "sam.pth")
    with pytest.raises(InvalidSam, match="a mapping with the keys model, epoch"):
        read_weights(tmp_path / "sam.pth")


def test_a_flipped_bit_in_a_tensor_of_a_pytorch_file_is_noticed(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "sam.pth")
    written = bytearray((tmp_path / "sam.pth").read_bytes())
    written[written.index(state["mask_decoder.iou_token.weight"].numpy().tobytes()) + 2] ^= 1
    (tmp_path / "sam.pth").write_bytes(written)
    with pytest.raises(InvalidSam, match=r"the checksum of its part 'sam/data/\d+' does not hold"):
        read_weights(tmp_path / "sam.pth")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("counts", torch.ones(2, dtype=torch.int64), r"not plain numbers with a fraction, under plain names: counts"),
        (3, torch.ones(2), "under plain names: 3"),
        ("sparse", torch.ones(2, 2).to_sparse(), "under plain names: sparse"),
        ("empty", torch.ones(2, device="meta"), "under plain names: empty"),
    ],
)
def test_what_no_weight_can_be_is_refused(state: State, tmp_path: Path, name: object, value: Tensor, message: str) -> None:
    torch.save({**state, name: value}, tmp_path / "sam.pth")
    with pytest.raises(InvalidSam, match=message):
        read_weights(tmp_path / "sam.pth")


def test_weights_that_are_not_finite_are_refused(state: State) -> None:
    with pytest.raises(InvalidSam, match=r"NaN or infinity in 1 of its \d+ tensors \(mask_decoder\.mask_tokens\.weight\)"):
        build_sam(state | {"mask_decoder.mask_tokens.weight": torch.full((4, 32), float("inf"))})


def test_shapes_that_no_network_has_are_refused(state: State) -> None:
    with pytest.raises(InvalidSam, match="none of 0"):
        build_sam(state | {"image_encoder.blocks.0.attn.rel_pos_h": torch.zeros(5, 0)})
    with pytest.raises(InvalidSam, match="is of 1 mask"):
        build_sam(state | {"mask_decoder.mask_tokens.weight": torch.zeros(1, 32)})
