"""Weights of segment-anything's `Sam`: read from a file, their architecture told from the shapes of the tensors alone.

A file of ViT-H, ViT-L, ViT-B or of a small SAM of one's own needs no name and no configuration: every width, depth and length that
`segment_anything` asks for shows in some tensor. Two things do not, and are segment-anything's own constants here: the eight heads of
the mask decoder, and the mean and standard deviation of the pixels.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import probe._torchvision  # noqa: F401  torchvision has to be importable before segment_anything asks for it

# isort: split

import torch
from safetensors.torch import load_file
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from fseg.errors import InvalidSam
from probe.tracing.finite import FiniteCheck

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
DECODER_HEADS = 8

_WANTED = "Pass weights of segment-anything's Sam class (such as sam_vit_h_4b8939.pth), or a hub id such as facebook/sam-vit-huge."


@dataclass(frozen=True)
class SamShape:
    """The architecture of a `segment_anything` Sam.

    Attributes:
        image_side: side of the square input, in pixels.
        patch: side of a patch, in pixels.
        width, depth, heads, mlp_width: of the image encoder.
        window: side of the windows of the blocks with windowed attention, in patches; 0 where every block is global.
        global_blocks: the blocks whose attention is global.
        channels: of the image embedding, and of the decoder.
        mask_channels: of the prompt encoder's mask input.
        decoder_depth, decoder_mlp_width, decoder_downsample: of the two-way transformer.
        mask_tokens: one for the single mask, and one for each of the alternatives.
        score_depth, score_width: of the head that predicts each mask's IoU.
    """

    image_side: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    window: int
    global_blocks: tuple[int, ...]
    channels: int
    mask_channels: int
    decoder_depth: int
    decoder_mlp_width: int
    decoder_downsample: int
    mask_tokens: int
    score_depth: int
    score_width: int


def read_weights(path: Path) -> dict[str, Tensor]:
    """The named tensors of a `.safetensors` file or of a PyTorch file, as float32 on the CPU.

    PyTorch files are read without running any code from them (`weights_only=True`), once the checksums that they carry are seen to hold.

    Raises:
        InvalidSam: the file is truncated or damaged, holds code, or is something else than a mapping of names to tensors of numbers.
    """
    try:
        state = load_file(path) if path.suffix == ".safetensors" else _read_pytorch(path)
    except pickle.UnpicklingError as error:
        raise InvalidSam(
            f"{path} is not a file of plain tensors: it holds other objects, whose code we do not run, or is no PyTorch file. {_WANTED}"
        ) from error
    except InvalidSam:
        raise
    except Exception as error:  # a damaged file can stop a reader in any way
        raise InvalidSam(
            f"{path} ({path.stat().st_size:,} bytes) does not read as weights; it may be truncated: download or copy it again. {_WANTED}"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        found = f"a mapping with the keys {some(map(str, state))}" if isinstance(state, Mapping) else f"a {type(state).__name__}"
        raise InvalidSam(f"{path} holds {found}, and weights are a mapping of names to tensors. {_WANTED}")
    other = [str(name) for name, value in state.items() if not (isinstance(name, str) and _is_plain(value))]
    if other:
        raise InvalidSam(f"{path} holds tensors that are not plain numbers with a fraction, under plain names: {some(other)}. {_WANTED}")
    return {name: value.float() for name, value in state.items()}


def _read_pytorch(path: Path) -> Any:
    if zipfile.is_zipfile(path):  # every file since PyTorch 1.6; torch.load itself does not look at the checksums of the tensors
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise InvalidSam(f"{path} is damaged: the checksum of its part {damaged!r} does not hold. Download or copy it again. {_WANTED}")
    return torch.load(path, map_location="cpu", weights_only=True)


def _is_plain(value: Tensor) -> bool:
    return value.is_floating_point() and value.layout is torch.strided and not value.is_meta


def check_finite(name: object, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not finite.

    Raises:
        InvalidSam: NaN or infinity in a tensor; the first are named.
    """
    check = FiniteCheck[str]()
    for tensor, values in tensors.items():
        check.add(tensor, values)
    if broken := check.failed():
        raise InvalidSam(
            f"{name} has NaN or infinity in {len(broken)} of its {len(tensors)} tensors ({some(broken)}). Get the weights again."
        )


def shape_of(state: Mapping[str, Tensor]) -> SamShape:
    """The architecture that these weights belong to, from the shapes of the tensors alone.

    A head's width is that of its relative positions, and a block's attention reaches as far as they do: over (length + 1) / 2 patches.

    Raises:
        InvalidSam: a tensor that tells is not there, or tells something that no Sam can be.
    """

    def size(name: str, dimensions: int = 2) -> torch.Size:
        if name in state and state[name].dim() == dimensions and state[name].numel():
            return state[name].shape
        if name in state:
            raise InvalidSam(
                f"{name} has the shape {tuple(state[name].shape)}, where segment-anything's has {dimensions} dimensions, none of 0. {_WANTED}"
            )
        if any(key.startswith("vision_encoder.") for key in state):
            raise InvalidSam(
                "These are SAM weights under the names of transformers, not of segment-anything. "
                "Pass the folder that they lie in, with its config.json."
            )
        raise InvalidSam(
            f"No tensor {name!r} among these {len(state)} ({some(state)}): not weights of segment-anything's Sam class. {_WANTED}"
        )

    _, rows, columns, width = size("image_encoder.pos_embed", 4)
    patch = size("image_encoder.patch_embed.proj.weight", 4)[-1]
    depth = _count(state, "image_encoder.blocks.{}.norm1.weight")
    reaches = [(size(f"image_encoder.blocks.{block}.attn.rel_pos_h")[0] + 1) // 2 for block in range(depth)]
    windows = set(reaches) - {rows}
    head_width = size("image_encoder.blocks.0.attn.rel_pos_h")[1]
    if rows != columns or len(windows) > 1 or width % head_width:
        raise InvalidSam(
            f"The image encoder has {rows} x {columns} positions, attention over {sorted(set(reaches))} patches, "
            f"and heads of {head_width} in a width of {width}. segment-anything's is square, with one size of window "
            f"and heads of equal width. {_WANTED}"
        )
    channels = size("mask_decoder.iou_token.weight")[1]
    attention_width = size("mask_decoder.transformer.final_attn_token_to_image.q_proj.weight")[0]
    if channels % attention_width or attention_width % DECODER_HEADS:
        raise InvalidSam(
            f"The mask decoder attends in a width of {attention_width} of its {channels} channels, "
            f"which no {DECODER_HEADS} heads of a whole downsampling give. {_WANTED}"
        )
    mask_tokens = size("mask_decoder.mask_tokens.weight")[0]
    if mask_tokens < 2:
        raise InvalidSam(f"mask_decoder.mask_tokens.weight is of {mask_tokens} mask; a SAM has a single one and alternatives. {_WANTED}")
    score_depth = _count(state, "mask_decoder.iou_prediction_head.layers.{}.weight")
    return SamShape(
        image_side=rows * patch,
        patch=patch,
        width=width,
        depth=depth,
        heads=width // head_width,
        mlp_width=size("image_encoder.blocks.0.mlp.lin1.weight")[0],
        window=max(windows, default=0),
        global_blocks=tuple(block for block, reach in enumerate(reaches) if reach == rows),
        channels=channels,
        mask_channels=size("prompt_encoder.mask_downscaling.3.weight", 4)[0],
        decoder_depth=_count(state, "mask_decoder.transformer.layers.{}.norm1.weight"),
        decoder_mlp_width=size("mask_decoder.transformer.layers.0.mlp.lin1.weight")[0],
        decoder_downsample=channels // attention_width,
        mask_tokens=mask_tokens,
        score_depth=score_depth,
        score_width=size("mask_decoder.iou_prediction_head.layers.0.weight")[0] if score_depth > 1 else channels,
    )


def build_sam(state: Mapping[str, Tensor]) -> Sam:
    """segment-anything's `Sam` with these weights, in evaluation mode and without gradients.

    The tensors become the parameters as they are: no second copy is made, and nothing is initialised only to be overwritten.

    Raises:
        InvalidSam: tensors are missing, left over, of another shape than the rest of the weights implies, or not finite.
    """
    shape = shape_of(state)
    try:
        with torch.device("meta"):
            model = _skeleton(shape)
    except (ValueError, RuntimeError, ArithmeticError, AssertionError) as error:  # of shapes that fit the names, and no network
        raise InvalidSam(f"No segment-anything Sam has these shapes: {error or type(error).__name__}. {_WANTED}") from error
    expected = model.state_dict()
    missing = [name for name in expected if name not in state]
    foreign = [name for name in state if name not in expected]
    misshapen = [f"{name} {tuple(state[name].shape)}" for name in expected if name in state and state[name].shape != expected[name].shape]
    faults = {"missing": missing, "not SAM's": foreign, "of another shape than the rest implies": misshapen}
    if any(faults.values()):
        told = "; ".join(f"{len(names)} {fault} ({some(names)})" for fault, names in faults.items() if names)
        raise InvalidSam(f"These {len(state)} tensors are not the weights of a segment-anything Sam: {told}. {_WANTED}")
    check_finite("The SAM", state)
    model.load_state_dict(dict(state), assign=True)
    # The two buffers that no file carries, and that a skeleton without storage therefore still lacks.
    model.pixel_mean = torch.tensor(PIXEL_MEAN).view(-1, 1, 1)
    model.pixel_std = torch.tensor(PIXEL_STD).view(-1, 1, 1)
    return model.eval().requires_grad_(False)


def _skeleton(shape: SamShape) -> Sam:
    grid = shape.image_side // shape.patch
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=shape.image_side,
            patch_size=shape.patch,
            embed_dim=shape.width,
            depth=shape.depth,
            num_heads=shape.heads,
            mlp_ratio=shape.mlp_width / shape.width,
            out_chans=shape.channels,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=shape.window,
            global_attn_indexes=shape.global_blocks,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=shape.channels,
            image_embedding_size=(grid, grid),
            input_image_size=(shape.image_side, shape.image_side),
            mask_in_chans=shape.mask_channels,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=shape.channels,
            transformer=TwoWayTransformer(
                depth=shape.decoder_depth,
                embedding_dim=shape.channels,
                num_heads=DECODER_HEADS,
                mlp_dim=shape.decoder_mlp_width,
                attention_downsample_rate=shape.decoder_downsample,
            ),
            num_multimask_outputs=shape.mask_tokens - 1,
            iou_head_depth=shape.score_depth,
            iou_head_hidden_dim=shape.score_width,
        ),
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )


def _count(state: Mapping[str, Any], pattern: str) -> int:
    """How many of pattern.format(0), pattern.format(1), ... are there in a row."""
    count = 0
    while pattern.format(count) in state:
        count += 1
    return count


def some(names: Iterable[str], most: int = 3) -> str:
    """The first names of many."""
    listed = list(names)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")
