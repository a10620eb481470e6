"""What the processors share: a real vocabulary, a chat template, and the tiny model of a family as wide as the vocabulary."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedConfig

from probe.tracing.modules import discover
from tests import families, zoo

TILE, PATCH = 28, 7
Pair = tuple[Any, Any]
FAMILIES: dict[str, Callable[..., Pair]] = {}
"""Family -> its tiny model and its processor."""


def listed(build: Callable[..., Pair]) -> Callable[..., Pair]:
    """List a family under its function's name."""
    FAMILIES[build.__name__] = build
    return build


def template(image: str) -> str:
    """A chat template that writes this for an image, and every text as it is."""
    return (
        "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{% if c['type'] == 'image' %}"
        + image
        + "{% else %}{{ c['text'] }}{% endif %}{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )


def tokenizer(*tokens: str, grows: bool = False, **named: str) -> Any:
    """Mistral-7B's vocabulary with more special tokens; the named ones become attributes too, as `tokenizer.boi_token`.

    Args:
        grows: whether the processor adds tokens of its own. Then it gets a vocabulary of its own, whose copy takes long.
    """
    words, size = _extended(tokens, tuple(named.items()))
    assert len(words) == size, "something added tokens to a vocabulary that is shared: give it one that grows"
    return zoo.copied(words, to_extend=grows)


@cache
def _extended(tokens: tuple[str, ...], named: tuple[tuple[str, str], ...]) -> tuple[Any, int]:
    built = zoo.copied(zoo.tokenizer(), to_extend=True)
    built.add_special_tokens({"additional_special_tokens": [*tokens, *dict(named).values()]}, replace_extra_special_tokens=False)
    built._set_model_specific_special_tokens(dict(named))
    return built, len(built)


def model(name: str, words: Any, *, tile: int | None = None, **ids: Any) -> Any:
    """The tiny model of a family, as wide as this vocabulary, with these of its configuration's values changed (in parts: a dictionary, or another part).

    Args:
        tile: pixels across the tower's input; None: the tiny model's own.
    """
    families.skip_if_lacking(name)
    torch.manual_seed(0)
    small, _ = families.FAMILIES[name]()
    config = copy.deepcopy(small.config)
    config.get_text_config(decoder=True).vocab_size = len(words)
    for key, value in ids.items():
        if isinstance(part := getattr(config, key, None), PreTrainedConfig) and isinstance(value, dict):
            _change(part, value)
        else:
            setattr(config, key, words.convert_tokens_to_ids(value) if value in words.all_special_tokens else value)
    if tile is not None:
        vision = config.vision_config
        vision.image_size = tile if isinstance(vision.image_size, int) else type(vision.image_size)((tile, tile))
    return _local(zoo.enliven(type(small)(config)))


def _change(config: PreTrainedConfig, values: dict[str, Any]) -> None:
    """Set values of a part of a configuration, and of its own parts."""
    for key, value in values.items():
        if isinstance(part := getattr(config, key, None), PreTrainedConfig) and isinstance(value, dict):
            _change(part, value)
        else:
            vars(config)[key] = value


def _local(built: Any) -> Any:
    """A tower whose patches mix little, as a trained one's do: what changes in one cell then moves that cell's token most."""
    for path in discover(built).vision_blocks:
        block = built.get_submodule(path).named_modules()
        projections = [part for name, part in block if "att" in name and isinstance(part, torch.nn.Linear)]
        if projections:  # some towers have blocks of convolutions
            projections[-1].weight.data *= 0.05
    return built


def smoothed(part: torch.nn.Module) -> None:
    """Kernels with one sign over all their taps, strongest in the middle, as trained ones mostly are: what a position sees has a centre."""
    for convolution in (module for module in part.modules() if isinstance(module, torch.nn.Conv2d) and module.kernel_size[0] % 2):
        middle = convolution.kernel_size[0] // 2
        bump = 1 - (torch.arange(2 * middle + 1) - middle).abs() / (middle + 1)
        convolution.weight.data = convolution.weight.data[:, :, middle, middle, None, None] * bump[:, None] * bump
