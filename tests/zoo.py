"""Tiny random models with real processors: the real geometry where a test needs it, small widths everywhere."""

from __future__ import annotations

import copy
import importlib.util
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    MistralConfig,
)

MISTRAL_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %} [/INST]{% else %}{{ m['content'][0]['text'] }}{% endif %}{% endfor %}"
)
VICUNA_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% else %}ASSISTANT: {{ m['content'][0]['text'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@cache
def tokenizer() -> Any:
    """Mistral-7B's real SentencePiece vocabulary, which mistral-common ships, with an `<image>` token."""
    import tempfile

    spec = importlib.util.find_spec("mistral_common")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(tempfile.mkdtemp(prefix="tokenizer-"))
    shutil.copy(Path(spec.origin).parent / "data" / "tokenizer.model.v1", folder / "tokenizer.model")
    made = LlamaTokenizer.from_pretrained(folder, legacy=True)
    made.add_special_tokens({"additional_special_tokens": ["<image>"]})
    made.pad_token = made.unk_token
    return made


def copied(thing: Any, *, to_extend: bool = False) -> Any:
    """A copy of a tokenizer, or of a processor with its tokenizer, that shares the vocabulary.

    Copying that takes half a second.

    Args:
        to_extend: whether tokens will be added to the copy. Then it has a backend of its own.
    """
    words = vars(getattr(thing, "tokenizer", thing))
    shared = [words[name] for name in ("_vocab", "_merges", *(() if to_extend else ("_tokenizer",))) if name in words]
    return copy.deepcopy(thing, {id(table): table for table in shared})


def enliven(model: Any) -> Any:
    """Random weights as large as trained ones are, so that no branch of the network is dead (towers start at 1e-10)."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.8 / parameter[0].numel() ** 0.5))
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
            if name.endswith("dt_bias"):
                parameter.sub_(4.5)  # a recurrent state is forgotten slowly: a step's decay is softplus of about this
    return model.eval()


def _vision(image_size: int, patch_size: int, layers: int = 4) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=2, image_size=image_size, patch_size=patch_size
    )


def _text(kind: str, layers: int) -> Any:
    shared: dict[str, Any] = {
        "vocab_size": 32064,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 4096,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    if kind == "mistral":
        return MistralConfig(**shared, num_key_value_heads=2, sliding_window=None)
    return LlamaConfig(**shared, num_key_value_heads=4)


def llava(image_size: int = 56, patch_size: int = 14, layers: int = 4) -> tuple[Any, Any]:
    """LLaVA-1.5: (model, processor). The stock processor: shortest edge, then a centre crop."""
    config = LlavaConfig(
        vision_config=_vision(image_size, patch_size),
        text_config=_text("llama", layers),
        image_token_index=tokenizer().convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    images = CLIPImageProcessor(size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size})
    processor = LlavaProcessor(
        images,
        tokenizer(),
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA_TEMPLATE,
    )
    return enliven(LlavaForConditionalGeneration(config)), processor


def llava_next(image_size: int = 56, patch_size: int = 14, layers: int = 4, text: str = "mistral") -> tuple[Any, Any]:
    """LLaVA-1.6: (model, processor), with the tiles and newline tokens of the original."""
    pinpoints = [[image_size, 2 * image_size], [2 * image_size, image_size], [2 * image_size, 2 * image_size], [3 * image_size, image_size]]
    config = LlavaNextConfig(
        vision_config=_vision(image_size, patch_size),
        text_config=_text(text, layers),
        image_token_index=tokenizer().convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    images = LlavaNextImageProcessor(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}, image_grid_pinpoints=pinpoints
    )
    processor = LlavaNextProcessor(
        images,
        tokenizer(),
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=MISTRAL_TEMPLATE if text == "mistral" else VICUNA_TEMPLATE,
    )
    return enliven(LlavaNextForConditionalGeneration(config)), processor


def save(pair: tuple[Any, Any], folder: Path) -> Path:
    """A checkpoint folder as `from_pretrained` finds it."""
    model, processor = pair
    model.save_pretrained(folder)
    # A copy: writing a processor marks its tokenizer with the processor's class, and all models of the tests share one tokenizer.
    copied(processor).save_pretrained(folder)
    return folder
