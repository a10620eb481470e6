"""Many images: `run_many` and `generate_many`, against plain Hugging Face one by one, and against a padded loop written by hand.

Each way begins with opened images and questions, so that preparing them is part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import probe
from tests.benchmarks.models import Size, opened
from tests.benchmarks.timing import seconds

BATCH = 4  # of the loop by hand: what a user would try first for some 600 tokens
ANSWER = 32
TOLERANCE = {"embedded": 1e-5, "mid": 1e-5, "full": 0.1}  # over the largest value: the same sums in another order, float32 and bfloat16
QUESTIONS = ("Is there a cat in the image?", "What is to the left of the large red car that stands in front of the house?", "Describe it.")
SIZES = ((480, 640), (640, 480), (300, 900))
Item = tuple[Image.Image, str]


def measure(size: Size, items: int = 24, repeats: int = 3) -> list[dict[str, object]]:
    """The image's states of every layer, and answers of 32 tokens, of images of three sizes with questions of three lengths."""
    model = opened(size).with_preparation()
    given = [(noise(SIZES[number % 3], number), QUESTIONS[number % 3]) for number in range(items)]
    return [
        *_compared(size, "states", _states(model, given), items, repeats),
        *_compared(size, "answers", _answers(model, given), items, repeats),
    ]


def noise(size: tuple[int, int], seed: int) -> Image.Image:
    """An image of noise in blocks, (height, width)."""
    blocks = np.random.default_rng(seed).integers(0, 255, (size[0] // 20, size[1] // 20, 3), dtype=np.uint8)
    return Image.fromarray(blocks.repeat(20, 0).repeat(20, 1))


def _compared(size: Size, task: str, ways: dict[str, Callable[[], list[Tensor]]], items: int, repeats: int) -> list[dict[str, object]]:
    made: dict[str, list[Tensor]] = {}

    def kept(name: str) -> None:
        made[name] = ways[name]()

    took = seconds({name: partial(kept, name) for name in ways}, repeats)
    ours = next(iter(ways))
    rows: list[dict[str, object]] = []
    for name in ways:
        pairs = zip(made[ours], made[name], strict=True)
        differs = max(float((a - b).abs().max()) / max(1.0, float(b.abs().max())) for a, b in pairs)
        assert differs <= TOLERANCE[size], (name, differs)
        rows.append(
            {
                "size": size,
                "what": task,
                "way": name,
                "items a second": items / took[name],
                "s / ours": took[name] / took[ours],
                "differs by": differs,
            }
        )
    return rows


def _states(model: probe.Probe, items: Sequence[Item]) -> dict[str, Callable[[], list[Tensor]]]:
    read = probe.Hidden("all", at="image")

    def encoded() -> Any:
        return (model.encode(image, text) for image, text in items)

    return {
        "run_many": lambda: [trace.hidden().data[:, 0].float() for trace in model.run_many(encoded(), read)],
        "run, one by one": lambda: [model.run(encoding, read).hidden().data[:, 0].float() for encoding in encoded()],
        "Hugging Face, one by one": lambda: [states for item in items for states in _plain_states(model, [item])],
        f"Hugging Face, padded by hand in {BATCH}s": lambda: [
            states for first in range(0, len(items), BATCH) for states in _plain_states(model, items[first : first + BATCH])
        ],
    }


def _answers(model: probe.Probe, items: Sequence[Item]) -> dict[str, Callable[[], list[Tensor]]]:
    length: dict[str, Any] = {"max_new_tokens": ANSWER, "min_new_tokens": ANSWER}

    def encoded() -> Any:
        return (model.encode(image, text) for image, text in items)

    def ids(answer: probe.Answer) -> Tensor:
        return torch.tensor(answer.tokens.ids[-ANSWER:]).float()

    return {
        "generate_many": lambda: [ids(answer) for answer in model.generate_many(encoded(), **length)],
        "generate, one by one": lambda: [ids(model.generate(encoding, **length)) for encoding in encoded()],
        "Hugging Face, one by one": lambda: [answer for item in items for answer in _plain_answers(model, [item], length)],
        f"Hugging Face, padded by hand in {BATCH}s": lambda: [
            answer for first in range(0, len(items), BATCH) for answer in _plain_answers(model, items[first : first + BATCH], length)
        ],
    }


@torch.no_grad()
def _plain_states(model: probe.Probe, items: Sequence[Item]) -> list[Tensor]:
    """What a user without probe would write: the image tokens' part of `hidden_states`, row by row."""
    inputs = _processed(model, items, "right")
    states = model.model(**inputs, output_hidden_states=True, use_cache=False, logits_to_keep=1).hidden_states
    image = inputs["input_ids"] == model.modules.image_token_id
    return [torch.stack([layer[row, image[row]] for layer in states]).float() for row in range(len(items))]


@torch.no_grad()
def _plain_answers(model: probe.Probe, items: Sequence[Item], length: dict[str, Any]) -> list[Tensor]:
    inputs = _processed(model, items, "left")
    options: dict[str, Any] = {"do_sample": False, "suppress_tokens": [model.modules.image_token_id], **length}
    return list(model.model.generate(**inputs, **options)[:, -ANSWER:].cpu().float())


def _processed(model: probe.Probe, items: Sequence[Item], side: str) -> dict[str, Tensor]:
    """The processor's inputs of several prompts, under its own chat template."""
    processor: Any = model.processor
    chats = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}] for _, text in items]
    prompts = [processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
    processor.tokenizer.padding_side = side
    images = [image for image, _ in items]
    return model.runtime.to_device(processor(images=images, text=prompts, padding=True, return_tensors="pt"))
