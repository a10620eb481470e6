"""Llama and other plain causal language models: text alone, each token attending to those before it."""

from __future__ import annotations

from probe.backbones.base import SHARING, Backbone
from probe.backbones.registry import register


@register(
    *("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "qwen3_next", "gemma", "gemma2", "gemma3_text"),
    *("phi3", "olmo2", "granite", "smollm3", "gpt2", "gpt_neox", "lfm2"),
)
class CausalLM(Backbone):
    """Questions can share the words that their prompts begin with."""

    prefix = SHARING
    no_grid_reason = "the family takes no images"
