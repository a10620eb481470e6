"""A model of images and text that transformers does not have, as a checkpoint brings it: its own names for everything."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.generation import GenerationMixin


class QuartetConfig(PretrainedConfig):
    model_type = "quartet"

    def __init__(
        self, llm_config: Any = None, width: int = 24, depth: int = 3, patch: int = 7, image_token_id: int = 150, **rest: Any
    ) -> None:
        super().__init__(**rest)
        self.llm_config = LlamaConfig(**(llm_config or {})) if not isinstance(llm_config, LlamaConfig) else llm_config
        self.width, self.depth, self.patch, self.image_token_id = width, depth, patch, image_token_id


class QuartetAttention(nn.Module):
    """Attention written out, without transformers' interface."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        query, key, value = self.qkv(states).chunk(3, dim=-1)
        return self.out((query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(-1) @ value)


class QuartetBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(width), QuartetAttention(width)

    def forward(self, states: Tensor) -> Tensor:
        return states + self.attn(self.norm(states))


class QuartetEye(nn.Module):
    def __init__(self, config: QuartetConfig) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, config.width, config.patch, config.patch)
        self.blocks = nn.ModuleList([QuartetBlock(config.width) for _ in range(config.depth)])

    def forward(self, pixels: Tensor) -> Tensor:
        states = self.patches(pixels).flatten(2).transpose(1, 2)
        for block in self.blocks:
            states = block(states)
        return states


class Quartet(PreTrainedModel, GenerationMixin):
    config_class = QuartetConfig
    _supports_sdpa = True

    def __init__(self, config: QuartetConfig) -> None:
        super().__init__(config)
        self.vision_model = QuartetEye(config)
        self.language_model = LlamaForCausalLM(config.llm_config)
        self.bridge = nn.Linear(config.width, config.llm_config.hidden_size)
        self.post_init()

    def forward(self, input_ids: Tensor, pixel_values: Tensor | None = None, attention_mask: Tensor | None = None, **options: Any) -> Any:
        states = self.language_model.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            seen = self.bridge(self.vision_model(pixel_values)).flatten(0, 1)
            marked = (input_ids == self.config.image_token_id)[..., None].expand_as(states)
            states = states.masked_scatter(marked, seen)
        return self.language_model(inputs_embeds=states, attention_mask=attention_mask, **options)

    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
        answer: Tensor = self.language_model.generate(input_ids=input_ids, attention_mask=attention_mask, **options)
        return torch.as_tensor(answer)
