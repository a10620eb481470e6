"""The questions about a training scene, and the tensors of their answers."""

from __future__ import annotations

from typing import cast

import numpy as np
from jaxtyping import Float, Float32

from fseg.glyphs.scenes import CLASSES
from fseg.glyphs.training import text
from fseg.vocabulary.questions import Article, question
from fseg.worlds.training.text import FREE_FORMS, free
from fseg.worlds.training.turns import Asked, packed

TURNS, LENGTH, REPLY = 4, 96, 30  # questions to an image, tokens of a question with its answer, tokens of an answer
_LEAST = 0.002  # a thing must cover this share of the image to be asked about


def _ask(rng: np.random.Generator, name: str) -> tuple[str, str, Article]:
    """A random question about a class: the question, the name used in it, the article."""
    names = text.aliases(name)
    used = names[-1] if rng.random() < 0.1 else name
    article = cast(Article, str(rng.choice(["a", "auto", "none"], p=[0.8, 0.1, 0.1])))
    wording = str(rng.choice(["class", "class-table-2", "contain", "photo", "free"], p=[0.56, 0.12, 0.12, 0.1, 0.1]))
    if wording == "free":
        return free(str(rng.choice(FREE_FORMS)), used, article), used, article
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
    """Tokens and targets of a batch of questions as `choose` gives them, truncated to LENGTH."""
    return packed([[(text.turn(asked, name, answer), label) for asked, name, answer, label in scene] for scene in scenes], LENGTH, REPLY)
