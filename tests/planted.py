"""LLaVA folders of the real geometry in which the answer is known: a white cell's projected token is the class token's own embedding.

The tower passes each patch's brightness on and nothing else; the projector sends bright to the embedding of one token of the vocabulary
and dark to its opposite. The decoder's weights are random and live, but small, so that a state stays near its embedding at every depth.
The language head ends every answer at once.
"""

from __future__ import annotations

from typing import Any

import torch

from tests import zoo


def plant(pair: tuple[Any, Any], token: str) -> tuple[Any, Any]:
    """Plant one token of the vocabulary into a model of `tests.zoo`."""
    model, processor = pair
    inner = model.model
    target = zoo.tokenizer().convert_tokens_to_ids(token)
    with torch.no_grad():
        embeddings = inner.language_model.embed_tokens.weight
        embeddings.mul_(embeddings.shape[1] ** 0.5)
        embeddings[:, 0] = 2.0
        for block in inner.language_model.layers:
            block.self_attn.o_proj.weight.mul_(0.02)
            block.mlp.down_proj.weight.mul_(0.02)
        model.lm_head.weight.zero_()
        model.lm_head.weight[model.config.text_config.eos_token_id, 0] = 10.0
        tower = getattr(inner.vision_tower, "vision_model", inner.vision_tower)
        tower.embeddings.position_embedding.weight.zero_()
        tower.embeddings.class_embedding.zero_()
        patch = tower.embeddings.patch_embedding.weight
        patch.zero_()
        patch[0], patch[1] = 1.0 / patch[0].numel(), -1.0 / patch[0].numel()
        tower.pre_layrnorm.weight.fill_(1.0)
        tower.pre_layrnorm.bias.zero_()
        for block in tower.encoder.layers:
            for last in (block.self_attn.out_proj, block.mlp.fc2):
                last.weight.zero_()
                last.bias.zero_()
        projector = inner.multi_modal_projector
        for linear in (projector.linear_1, projector.linear_2):
            linear.weight.zero_()
            linear.bias.zero_()
        # The layer norm makes a bright patch (s, -s, 0 ...) and a dark one (-s, s, 0 ...), with s = sqrt(width / 2).
        projector.linear_1.weight[0, 0] = projector.linear_1.weight[1, 1] = 1.0
        bright = (patch.shape[0] / 2) ** 0.5
        projector.linear_2.weight[:, 0] = embeddings[target] / bright
        projector.linear_2.weight[:, 1] = -embeddings[target] / bright
    return model, processor
