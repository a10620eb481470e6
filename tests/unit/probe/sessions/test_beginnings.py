"""Which tokens of a vocabulary begin a word."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from probe.sessions.gate.beginnings import beginnings, begins

YES = ("yes", "YES", " Yes", '"Yes', " y", "Ye", "yes,", "“Yes", "**yes")
OTHERS = (" yesterday", "eyes", "no", " ", '"', "s", "y,", "yesno", "")


def tokenizer(spelled: list[str], decoder: decoders.Decoder) -> Any:
    vocabulary = {"<unk>": 0, "yes</s>": 1} | {piece: number for number, piece in enumerate(spelled, 2)}
    core = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    core.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="yes</s>")


def sentencepiece(text: str) -> str:
    return text.replace(" ", "▁")


def byte_level(text: str) -> str:
    return text.replace(" ", "Ġ").replace("“", "âĢľ")  # U+201C is the bytes E2 80 9C


@pytest.mark.parametrize("text", YES)
def test_a_text_begins_a_yes(text: str) -> None:
    assert begins(text, "yes")


@pytest.mark.parametrize("text", OTHERS)
def test_a_text_begins_something_else(text: str) -> None:
    assert not begins(text, "yes")


@pytest.mark.parametrize(
    ("spell", "decoder"), [(sentencepiece, decoders.Metaspace()), (byte_level, decoders.ByteLevel())], ids=["sentencepiece", "byte_level"]
)
def test_the_tokens_that_begin_a_word_are_found_in_either_spelling(spell: Any, decoder: decoders.Decoder) -> None:
    made = tokenizer([spell(text) for text in (*YES, *OTHERS)], decoder)
    assert beginnings(made, ("yes", "Yes")) == tuple(range(2, 2 + len(YES)))  # not the special token of id 1
    assert beginnings(made, ("no",)) == (2 + len(YES) + OTHERS.index("no"),)


def test_a_token_that_is_added_later_is_found() -> None:
    made = tokenizer(["▁no"], decoders.Metaspace())
    assert beginnings(made, ("yes",)) == ()
    made.add_tokens(["YES"])
    assert beginnings(made, ("yes",)) == (3,)
