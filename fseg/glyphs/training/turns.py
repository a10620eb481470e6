"""The questions about a training scene, and the tensors of their answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from fseg.glyphs.scenes import CLASSES
from fseg.glyphs.training import text
from fseg.vocabulary.questions import Article, question

TURNS, LENGTH, REPLY = 4, 96, 30  # questions to an image, tokens of a question with its answer, tokens of an answer
_LEAST = 0.002  # a thing must cover this share of the image to be asked about


@dataclass(frozen=True)
class Asked:
    """The turns of a batch, in tokens. A word is a class name's last token: in the question, and in the answer if it is a yes."""

    ids: Int64[Tensor, "batch turn token"]
    reply: Int64[Tensor, "batch turn reply"]
    """The positions whose logits predict the answer's tokens."""
    target: Int64[Tensor, "batch turn reply"]
    """The answer's tokens; -100 after its end."""
    words: Int64[Tensor, "batch turn 2"]
    exists: Bool[Tensor, "batch turn 2"]
    """Which of the two words exist."""
    label: Int64[Tensor, "batch turn"]
    """The label asked about, counted from 1; 0 if the class is not in the scene."""
    second: Float[Tensor, "batch turn token"]
    """1 on the tokens of the answer's second sentence."""


def _ask(rng: np.random.Generator, name: str) -> tuple[str, str, Article]:
    """A random question about a class: the question, the name used in it, the article."""
    names = text.aliases(name)
    used = names[-1] if rng.random() < 0.1 else name
    article = cast(Article, str(rng.choice(["a", "auto", "none"], p=[0.8, 0.1, 0.1])))
    wording = str(rng.choice(["class", "class-table-2", "contain", "photo", "free"], p=[0.56, 0.12, 0.12, 0.1, 0.1]))
    if wording == "free":
        return text.free(str(rng.choice(text.FREE_FORMS)), used, article), used, article
    return question(used, wording, article), used, article


def choose(
    rng: np.random.Generator, things: Float32[np.ndarray, "4 12"], likeness: Float[np.ndarray, "label"], positives: tuple[float, ...]
) -> list[tuple[str, str, str, int]]:
    """Questions for one scene: (question, name, answer, label or 0).

    Args:
        likeness: for each class, how much some patch looks like it; absent classes that look present are asked about more often.
        positives: the chances of asking for 0, 1, 2, ... of the things in the scene.
    """
    present = {int(row[0]): row for row in things if row[0] >= 0}
    shown = [index for index, row in present.items() if row[11] >= _LEAST]
    count = min(int(rng.choice(len(positives), p=positives)), len(shown))
    turns = []
    for index in rng.permutation(shown)[:count].tolist():
        asked, name, article = _ask(rng, CLASSES[index])
        turns.append((asked, name, text.answer(name, present[index], article), index + 1))
    chance = np.array([0.0 if index in present else 0.1 + float(likeness[index]) for index in range(len(CLASSES))])
    for index in rng.choice(len(CLASSES), TURNS - count, replace=False, p=chance / chance.sum()).tolist():
        name = str(rng.choice(text.STRANGERS)) if rng.random() < 0.08 else CLASSES[index]
        asked, name, _ = _ask(rng, name)
        turns.append((asked, name, text.NO, 0))
    return [turns[k] for k in rng.permutation(len(turns))]


def collate(scenes: list[list[tuple[str, str, str, int]]]) -> Asked:
    """Tokens and targets of a batch, truncated to LENGTH."""
    batch, count = len(scenes), len(scenes[0])
    ids = np.zeros((batch, count, LENGTH), dtype=np.int64)
    reply = np.zeros((batch, count, REPLY), dtype=np.int64)
    target = np.full((batch, count, REPLY), -100, dtype=np.int64)
    words, exists = np.zeros((batch, count, 2), dtype=np.int64), np.zeros((batch, count, 2), dtype=bool)
    label, second = np.zeros((batch, count), dtype=np.int64), np.zeros((batch, count, LENGTH), dtype=np.float32)
    for b, scene in enumerate(scenes):
        for k, (asked, name, answer, index) in enumerate(scene):
            turn = text.turn(asked, name, answer)
            tokens = turn.ids[:LENGTH]
            ids[b, k, : len(tokens)] = tokens
            size = min(REPLY, len(tokens) - turn.start)
            reply[b, k, :size] = np.arange(size) + turn.start - 1
            target[b, k, :size] = tokens[turn.start : turn.start + size]
            words[b, k, : len(turn.words)], exists[b, k, : len(turn.words)] = turn.words, True
            label[b, k] = index
            second[b, k, turn.second : len(tokens) - 1] = 1
    arrays = (ids, reply, target, words, exists, label, second)
    return Asked(*(torch.from_numpy(array) for array in arrays))
