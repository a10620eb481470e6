"""The start of a decoder that is trained from nothing."""

from __future__ import annotations

import torch
from transformers import LlamaModel, Qwen2VLTextModel


@torch.no_grad()
def initialise_decoder(model: LlamaModel | Qwen2VLTextModel) -> None:
    """Embeddings far enough apart to be told from each other, and blocks that keep the size of the residual stream."""
    model.embed_tokens.weight.normal_(std=0.5)
    for name, weight in model.layers.named_parameters():
        if weight.ndim == 2:
            weight.normal_(std=weight.shape[1] ** -0.5 * (0.4 if "o_proj" in name or "down_proj" in name else 1))
