"""The tokens of a vocabulary with which a word can begin."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from probe.tokens.offsets import vocabulary_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FIRST_WORD = re.compile(r"\W*([^\W_]+)(.*)", re.DOTALL)

_KNOWN: WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple[int, tuple[str, ...]], tuple[int, ...]]] = WeakKeyDictionary()
"""A tokenizer -> its size and words -> their tokens: a vocabulary of 150,000 takes tenths of a second."""


def begins(text: str, word: str) -> bool:
    """Whether a text begins a word, whatever its case, and whatever white space and punctuation precedes it.

    A part of the word is enough where nothing follows it.

    >>> [begins(text, "yes") for text in (" Y", '"YES', "yes,", "y,", "yesterday", '"')]
    [True, True, True, False, False, False]
    """
    first = _FIRST_WORD.match(text)
    if first is None:
        return False
    found, rest = first[1].casefold(), first[2]
    return found == word.casefold() or (not rest and word.casefold().startswith(found))


def beginnings(tokenizer: PreTrainedTokenizerBase, words: tuple[str, ...]) -> tuple[int, ...]:
    """The ids of all tokens that begin one of the words, in ascending order."""
    known, key = _KNOWN.setdefault(tokenizer, {}), (len(tokenizer), words)
    if key not in known:
        texts = vocabulary_texts(tokenizer)
        known[key] = tuple(number for number, text in texts.items() if any(begins(text, word) for word in words))
    return known[key]
