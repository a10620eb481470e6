"""Many questions about one image: plain Hugging Face generate() one by one, against a session's two ways to share the image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image

import probe
from tests.benchmarks.models import Size, opened, picture
from tests.benchmarks.timing import seconds

POLICIES = ("batched", "packed")
TOKENS = 40
FORCED = 5  # a token without a meaning of its own
NAMES = [
    f"{first} {second}"
    for first in ("red", "old", "wet", "big")
    for second in [
        "cat",
        "dog",
        "car",
        "man",
        "cup",
        "hat",
        "box",
        "pen",
        "bus",
        "cow",
        "sky",
        "sea",
        "leg",
        "arm",
        "eye",
        "ear",
        "toe",
        "lip",
        "jaw",
        "rib",
    ]
]


def questions(count: int) -> list[str]:
    return [f"Is there a {name} in the image? If yes, describe it." for name in NAMES[:count]]


def measure(size: Size, counts: tuple[int, ...] = (1, 8, 20, 80), alone: int = 20, repeats: int = 2) -> list[dict[str, object]]:
    """One row a count and a policy. One by one, at most `alone` questions are timed, and their mean stands for each of more."""
    model, image = opened(size), picture()
    with given_length(model), forced_words(model, size):
        for policy in POLICIES:
            _together(model, image, 1, policy)
        _one_by_one(model, image, 1)
        repeats = max(repeats, 5) if size == "embedded" else repeats  # some are over in 0.1 s
        return [row for count in counts for row in _rows(size, model, image, count, min(alone, count), repeats)]


@contextmanager
def given_length(model: probe.Probe) -> Iterator[None]:
    """No answer ends before it has all of the tokens that it may have."""
    settings = model.model.generation_config
    ends, settings.eos_token_id = settings.eos_token_id, None
    try:
        yield
    finally:
        settings.eos_token_id = ends


@contextmanager
def forced_words(model: probe.Probe, size: Size) -> Iterator[None]:
    """At full size all words but one are forbidden: the order of its sums, which bfloat16 rounds, would choose others among random ones."""
    settings = model.model.generation_config
    before, settings.suppress_tokens = settings.suppress_tokens, [model.runtime.image_token_id]
    if size == "full":
        settings.suppress_tokens = [token for token in range(model.model.config.text_config.vocab_size) if token != FORCED]
    try:
        yield
    finally:
        settings.suppress_tokens = before


def _rows(size: Size, model: probe.Probe, image: Image.Image, count: int, alone: int, repeats: int) -> list[dict[str, object]]:
    said: dict[str, list[tuple[int, ...]]] = {}
    ways: dict[str, Callable[[], Any]] = {
        "alone": lambda: said.update(alone=_one_by_one(model, image, alone)),
        **{policy: (lambda policy=policy: said.update({policy: _together(model, image, count, policy)})) for policy in POLICIES},
    }
    took = seconds(ways, repeats, warm_up=0)
    one_by_one, allowed = took["alone"] * count / alone, allowed_ratio(model, image, count)
    assert all(said[policy][:alone] == said["alone"] for policy in POLICIES)
    return [
        {
            "size": size,
            "questions": count,
            "policy": policy,
            "one by one, s": one_by_one,
            "together, s": took[policy],
            "tokens/s": count * TOKENS / took[policy],
            "ratio": one_by_one / took[policy],
            "operations allow": allowed,
            "share": one_by_one / took[policy] / allowed,
        }
        for policy in POLICIES
    ]


@torch.no_grad()
def _one_by_one(model: probe.Probe, image: Image.Image, count: int) -> list[tuple[int, ...]]:
    """Hugging Face alone, but for the encoding."""
    made = []
    for question in questions(count):
        inputs = model.encode(image, question).inputs
        ids = model.model.generate(**inputs, do_sample=False, pad_token_id=0, max_new_tokens=TOKENS)
        made.append(tuple(ids[0].tolist()))
    return made


def _together(model: probe.Probe, image: Image.Image, count: int, policy: str) -> list[tuple[int, ...]]:
    with model.open(image, policy=policy) as session:
        return [answer.tokens.ids for answer in session.ask(questions(count), max_new_tokens=TOKENS)]


def allowed_ratio(model: probe.Probe, image: Image.Image, count: int) -> float:
    """By multiplications in the decoder's blocks, unmasked pairs only: every question whole, over the image's part once and the rest of each."""
    text = model.model.config.get_text_config()
    tokens = model.encode(image, questions(1)[0]).tokens
    prefix = tokens.span("image").positions[-1] + 1
    own = len(tokens) - prefix + TOKENS - 1
    key_width = text.hidden_size // text.num_attention_heads * text.num_key_value_heads
    linear = 2 * text.hidden_size**2 + 2 * text.hidden_size * key_width + 3 * text.hidden_size * text.intermediate_size

    def cost(new: int, before: int) -> float:
        return new * linear + 2 * text.hidden_size * (new * before + new * (new + 1) / 2)

    return count * cost(prefix + own, 0) / (cost(prefix, 0) + count * cost(own, prefix))
