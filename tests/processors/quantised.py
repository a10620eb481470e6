"""Families that quantise an image into words of the vocabulary.

Convolutions that mix little, a fine code book, and words like its codes: a cell moves its own token by as much as it changes.
"""

from __future__ import annotations

import torch
import transformers as hf
from torch.nn.functional import interpolate, pad

from tests.families.tiny import noise
from tests.processors.offline import Pair, model, template, tokenizer

FIRST, COUNT = 1000, 16000
"""The words that stand for codes."""
CODES = {"num_embeddings": COUNT, "embed_dim": 4, "latent_channels": 4}


def chameleon(edge: int, channels: list[int]) -> Pair:
    """Chameleon with square images of so many pixels, halved once for each channel multiplier but the first."""
    words = tokenizer(image_token="<image>", boi_token="<racm3:break>", eoi_token="<eoss>", sep_token="<reserved08706>")
    images = hf.ChameleonImageProcessor(size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge})
    side = edge >> (len(channels) - 1)
    processor = hf.ChameleonProcessor(images, words, image_seq_length=side**2)
    named = {"IMGIMG" + "".join("ABCDEFGHIJ"[int(digit)] for digit in f"{code:05}") + "Z": FIRST + code for code in range(COUNT)}
    vision = {**CODES, "resolution": edge, "channel_multiplier": channels}
    named["<image>"] = words.convert_tokens_to_ids("<image>")
    built = model("chameleon", words, image_token_id="<image>", vocabulary_map=named, vq_config=vision)
    tower = built.model.vqmodel
    narrow(tower.encoder)
    torch.nn.init.dirac_(tower.quant_conv.weight.data)
    with torch.no_grad():
        seen = tower.quant_conv(tower.encoder(_pictures(-(-COUNT // side**2), edge)))
    _name_codes(built, seen.permute(0, 2, 3, 1).flatten(0, 2))
    return built, processor


def emu3() -> Pair:
    """Emu 3 with the default settings of its image processor."""
    named = {
        "image_token": "<image>",
        "boi_token": "<|image start|>",
        "eoi_token": "<|image end|>",
        "image_wrapper_token": "<|image token|>",
        "eof_token": "<|extra_201|>",
        "eol_token": "<|extra_200|>",
    }
    words = tokenizer(**named)
    processor = hf.Emu3Processor(hf.Emu3ImageProcessor(), words, chat_template=template("<image>"))
    codes = {f"<|visual token {code:06d}|>": FIRST + code for code in range(COUNT)}
    marks = {token: words.convert_tokens_to_ids(token) for token in ("<image>", "<|extra_200|>")}
    vision = {"codebook_size": COUNT, "embed_dim": 4, "latent_channels": 4, "channel_multiplier": (1, 1, 1, 1), "attn_resolutions": ()}
    built = model("emu3", words, image_token_id="<image>", vocabulary_map={**codes, **marks}, vq_config=vision)
    tower = built.model.vqmodel
    narrow(tower.encoder)
    with torch.no_grad():
        frames = _pictures(4, 512).unsqueeze(1).repeat(1, tower.config.temporal_downsample_factor, 1, 1, 1)
        seen = tower.quant_conv(tower.encoder(frames).permute(0, 2, 1, 3, 4))
    _name_codes(built, seen.permute(0, 2, 3, 4, 1).flatten(0, 3))
    return built, processor


def narrow(encoder: torch.nn.Module) -> None:
    """Convolutions that look at their own cell nearly alone, which training can make of them."""
    for name, part in encoder.named_modules():
        if name.endswith("downsample.conv"):  # it looks at its cell and the beginning of the next one
            part.weight.data = pad(part.weight.data[:, :, :1, :1].expand(-1, -1, 2, 2), (0, 1, 0, 1)) / 2
        elif isinstance(part, (torch.nn.Conv2d, torch.nn.Conv3d)) and part.kernel_size[-2:] == (3, 3):
            part.weight.data *= pad(torch.tensor([[1.0]]), (1, 1, 1, 1), value=0.02)
        if name.endswith(("conv2", "proj_out", "conv2.conv")) and isinstance(
            part, (torch.nn.Conv2d, torch.nn.Conv3d)
        ):  # what a block adds to its input
            part.weight.data *= 0.1


def _pictures(count: int, edge: int) -> torch.Tensor:
    """Normalised images of blocks of noise."""
    return interpolate(noise(count, 3, edge // 4, edge // 4) / 2, scale_factor=4)


def _name_codes(built: torch.nn.Module, seen: torch.Tensor) -> None:
    """Let the vectors that these images have be the code book, and words begin as their codes."""
    embedded = built.get_input_embeddings().weight.data
    built.model.vqmodel.quantize.embedding.weight.data = seen[:COUNT].clone()
    embedded[FIRST : FIRST + COUNT] = pad(seen[:COUNT], (0, embedded.shape[1] - seen.shape[1]))
