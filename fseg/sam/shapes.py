"""The architecture of a segment-anything SAM of any size, from the shapes of its tensors.

The released sizes (vit_h, vit_l, vit_b) are built by segment-anything's own registry; this file is for all others, such as the embedded
SAM. Every width, depth and length that `segment_anything` asks for is a dimension of some tensor. Only the eight heads of the mask decoder
and the mean and standard deviation of the pixels are not; they are segment-anything's constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

# isort: split

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from fseg.errors import InvalidSam
from fseg.sam.weights import ACCEPTED, some

DECODER_HEADS = 8


@dataclass(frozen=True)
class SamShape:
    """The architecture of a `segment_anything` Sam.

    Attributes:
        image_side: side of the square input, in pixels.
        patch: side of a patch, in pixels.
        width, depth, heads, mlp_width: of the image encoder.
        window: side of the windows of the blocks with windowed attention, in patches; 0 where every block is global.
        global_blocks: the blocks whose attention is global.
        channels: of the image embedding and of the decoder.
        mask_channels: of the prompt encoder's mask input.
        decoder_depth, decoder_mlp_width, decoder_downsample: of the two-way transformer.
        mask_tokens: one for the single mask and one for each alternative.
        score_depth, score_width: of the head that predicts the IoU of each mask.
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


def shape_of(state: Mapping[str, Tensor]) -> SamShape:
    """The architecture of these weights, from the shapes of the tensors alone.

    The relative positions of a block give the width of its heads, and the range of its attention: (length + 1) / 2 patches.

    Raises:
        InvalidSam: a tensor that shows the architecture is missing, or has a shape that no Sam can have.
    """

    def size(name: str, dimensions: int = 2) -> torch.Size:
        if name in state and state[name].dim() == dimensions and state[name].numel():
            return state[name].shape
        if name in state:
            raise InvalidSam(
                f"{name} has the shape {tuple(state[name].shape)}, where segment-anything's has {dimensions} dimensions, none of 0. {ACCEPTED}"
            )
        if any(key.startswith("vision_encoder.") for key in state):
            raise InvalidSam(
                "These are SAM weights under the names of transformers, not of segment-anything. "
                "Pass the folder that they lie in, with its config.json."
            )
        raise InvalidSam(
            f"No tensor {name!r} among these {len(state)} ({some(state)}): not weights of segment-anything's Sam class. {ACCEPTED}"
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
            f"and heads of equal width. {ACCEPTED}"
        )
    channels = size("mask_decoder.iou_token.weight")[1]
    attention_width = size("mask_decoder.transformer.final_attn_token_to_image.q_proj.weight")[0]
    if channels % attention_width or attention_width % DECODER_HEADS:
        raise InvalidSam(
            f"The mask decoder attends in a width of {attention_width} of its {channels} channels, "
            f"which no {DECODER_HEADS} heads of a whole downsampling give. {ACCEPTED}"
        )
    mask_tokens = size("mask_decoder.mask_tokens.weight")[0]
    if mask_tokens < 2:
        raise InvalidSam(f"mask_decoder.mask_tokens.weight is of {mask_tokens} mask; a SAM has a single one and alternatives. {ACCEPTED}")
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


def skeleton(shape: SamShape) -> Sam:
    """An untrained Sam of this architecture."""
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
    )


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many of pattern.format(0), pattern.format(1), ... are there in a row."""
    count = 0
    while pattern.format(count) in state:
        count += 1
    return count
