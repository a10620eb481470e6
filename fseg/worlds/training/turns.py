"""Questions and answers as tokens: one turn, and the turns of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Form:
    """How a family writes a question and its answer behind the image tokens."""

    before: str
    """Between the last image token and the question."""
    after: str
    """Between the question and the answer."""
    end: str
    """The token behind the answer."""
    no: str
    """The answer if the class is absent."""


@dataclass(frozen=True)
class Turn:
    """The tokens of a question after the image, and of its answer."""

    ids: tuple[int, ...]
    start: int
    """The index at which the answer begins."""
    words: tuple[int, ...]
    """The last token of the class name: in the question, and in the answer's first sentence if that contains it."""
    second: int
    """The index at which the answer's second sentence begins; the length, if there is none."""


def tokenised(encode: PreTrainedTokenizerFast, form: Form, asked: str, name: str, reply: str) -> Turn:
    """The tokens of a question about a class and its answer, as they follow the image."""
    prompt = form.before + asked + form.after
    before = encode(prompt, return_offsets_mapping=True, add_special_tokens=False)
    after = encode(reply, return_offsets_mapping=True, add_special_tokens=False)
    start = len(before["input_ids"])

    def last_piece(text: str, offsets: list[tuple[int, int]]) -> int:
        end = text.index(name) + len(name)
        return next(k for k, (first, stop) in enumerate(offsets) if first < end <= stop)

    words = [last_piece(prompt, before["offset_mapping"])]
    second = len(after["input_ids"])
    if reply != form.no:
        words.append(start + last_piece(reply, after["offset_mapping"]))
        second = next(k for k, (first, _) in enumerate(after["offset_mapping"]) if first >= reply.index(".") + 1)
    end = encode.convert_tokens_to_ids(form.end)
    return Turn((*before["input_ids"], *after["input_ids"], end), start, tuple(words), start + second)


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

    def tensors(self) -> list[Tensor]:
        """All of it, in the order of the fields."""
        return [self.ids, self.reply, self.target, self.words, self.exists, self.label, self.second]


def packed(scenes: list[list[tuple[Turn, int]]], length: int, reply_length: int) -> Asked:
    """Tokens and targets of a batch, truncated to `length` tokens a turn and `reply_length` an answer.

    Args:
        scenes: for each scene its turns, each with the label asked about, or 0.
    """
    batch, count = len(scenes), len(scenes[0])
    ids = np.zeros((batch, count, length), dtype=np.int64)
    reply = np.zeros((batch, count, reply_length), dtype=np.int64)
    target = np.full((batch, count, reply_length), -100, dtype=np.int64)
    words, exists = np.zeros((batch, count, 2), dtype=np.int64), np.zeros((batch, count, 2), dtype=bool)
    label, second = np.zeros((batch, count), dtype=np.int64), np.zeros((batch, count, length), dtype=np.float32)
    for b, scene in enumerate(scenes):
        for k, (turn, index) in enumerate(scene):
            tokens = turn.ids[:length]
            ids[b, k, : len(tokens)] = tokens
            size = min(reply_length, len(tokens) - turn.start)
            reply[b, k, :size] = np.arange(size) + turn.start - 1
            target[b, k, :size] = tokens[turn.start : turn.start + size]
            words[b, k, : len(turn.words)], exists[b, k, : len(turn.words)] = turn.words, True
            label[b, k] = index
            second[b, k, turn.second : len(tokens) - 1] = 1
    arrays = (ids, reply, target, words, exists, label, second)
    return Asked(*(torch.from_numpy(array) for array in arrays))
