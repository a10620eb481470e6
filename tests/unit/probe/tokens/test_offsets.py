"""The characters that each token holds, against the offsets that the tokenizers themselves give when they encode."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from probe.inputs.text import token_map
from probe.tokens.spans import TokenMap
from tests import zoo

IMAGE = 32000
TEXTS = ["yes, it contains a cat. It is on the café's table.\n", "No! 猫が好き 😺😸 here", "der Hund läuft — über die Straße 龘"]


@cache
def byte_level() -> Any:
    """Byte-level BPE trained on three sentences, so that some of its tokens end in the middle of a character."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=core)


TOKENIZERS = {"sentencepiece": zoo.tokenizer, "byte_level": byte_level}
both = pytest.mark.parametrize("kind", sorted(TOKENIZERS))

texts = st.lists(
    st.sampled_from(
        ["cat", " cat", " potted", "plant", "é", "e\u0301", "😺", "👩\u200d👩\u200d👧", "🇩🇪", "龘", "\ufffd", "\n", " ", ". ", "ß"]
    )
    | st.characters(exclude_categories=["Cs"], exclude_characters="▁<"),
    min_size=1,
    max_size=12,
).map("".join)


def read(kind: str, ids: list[int]) -> TokenMap:
    return token_map("llava", TOKENIZERS[kind](), IMAGE, ids, [], None)


def encoded(kind: str, text: str) -> tuple[TokenMap, list[tuple[int, int]]]:
    """A text's tokens, and the characters of the text that each was encoded from."""
    encoded = TOKENIZERS[kind]()(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = list(encoded["offset_mapping"])
    if encoded.tokens()[0] == "▁":
        offsets[0] = (0, 0)  # a space that SentencePiece puts before a text, not one of its characters
    return read(kind, encoded["input_ids"]), offsets


def decoded(kind: str, ids: tuple[int, ...]) -> str:
    return str(TOKENIZERS[kind]().decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


@both
@given(text=texts)
def test_a_character_belongs_to_the_tokens_that_it_was_encoded_to(kind: str, text: str) -> None:
    tokens, offsets = encoded(kind, text)
    assert tokens.text() == text.strip()
    margin = len(text) - len(text.lstrip())
    for number in range(len(tokens.text())):
        holding = tuple(p for p, (start, stop) in enumerate(offsets) if start <= number + margin < stop)
        assert tokens.characters(number, number + 1, None).positions == holding


@both
@given(data=st.data())
def test_any_ids_have_the_text_that_the_tokenizer_decodes(kind: str, data: st.DataObject) -> None:
    size = len(TOKENIZERS[kind]())
    bytes_of = range(3, 259) if kind == "sentencepiece" else range(256)  # most runs of them are no UTF-8
    tokens = read(kind, data.draw(st.lists(st.sampled_from(bytes_of) | st.integers(0, size - 1), max_size=12)))
    text = decoded(kind, tuple(i for i in tokens.ids if i != IMAGE)).strip()
    assert tokens.text() == text
    held = [tokens.characters(number, number + 1, None).positions for number in range(len(text))]
    assert all(held)
    assert held == sorted(held)


@both
@given(text=texts, data=st.data())
def test_the_spans_of_a_partition_cover_the_tokens(kind: str, text: str, data: st.DataObject) -> None:
    tokens, offsets = encoded(kind, text)
    length = len(tokens.text())
    edges = sorted({0, length, *data.draw(st.lists(st.integers(0, length), max_size=3))})
    covered = {p for start, stop in pairwise(edges) for p in tokens.characters(start, stop, None).positions}
    # What is left is the white space around the text.
    assert all(text[slice(*offsets[p])].strip() == "" for p in set(range(len(tokens))) - covered)


@both
@given(text=texts)
def test_the_tokens_of_a_word_decode_to_text_that_contains_it(kind: str, text: str) -> None:
    tokens, _ = encoded(kind, text)
    for word in set(re.findall(r"\w+|[^\w\s]", tokens.text())):
        for index in range(len(tokens.find(word, "prompt"))):
            assert word.casefold() in tokens.text(tokens.word(word, "prompt", index=index)).casefold()


def pieces(tokens: TokenMap, word: str, index: int | None = None) -> list[str]:
    tokenizer = TOKENIZERS["sentencepiece"]()
    return [str(piece) for piece in tokenizer.convert_ids_to_tokens([tokens.ids[p] for p in tokens.word(word, "prompt", index).positions])]


def test_a_word_behind_a_newline_has_all_its_bytes() -> None:
    tokens, _ = encoded("sentencepiece", "Yes,\n龘 here.")
    assert pieces(tokens, "龘") == ["<0xE9>", "<0xBE>", "<0x98>"]


def test_two_emoji_side_by_side_share_no_token() -> None:
    tokens, _ = encoded("sentencepiece", "😺😺 cat")
    assert pieces(tokens, "😺", 0) == pieces(tokens, "😺", 1) == ["<0xF0>", "<0x9F>", "<0x98>", "<0xBA>"]
    assert not set(tokens.word("😺", "prompt", 0).positions) & set(tokens.word("😺", "prompt", 1).positions)


def test_a_literal_replacement_character_has_its_three_bytes() -> None:
    tokens, _ = encoded("byte_level", "a\ufffdb")
    assert tokens.characters(1, 2, None).positions == (1, 2, 3)


def test_a_token_that_holds_no_character_is_in_no_span() -> None:
    tokens = read("sentencepiece", zoo.tokenizer()("a cat here", add_special_tokens=False)["input_ids"])
    special = TokenMap((*tokens.ids[:2], 2, *tokens.ids[2:]), (), (), {}, decode=tokens.decode)  # an end-of-sequence token before "here"
    assert special.text() == "a cat here"
    assert special.characters(0, 10, None).positions == (0, 1, 3)


def fast(model: Any, decoder: Any = None) -> Any:
    core = Tokenizer(model)
    if decoder is not None:
        core.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=core)


@pytest.mark.parametrize(
    ("tokenizer", "text", "held"),
    [
        (
            fast(models.WordPiece({"the": 0, "pott": 1, "##ed": 2, ".": 3}), decoders.WordPiece()),
            "the potted.",
            ["the", " pott", "ed", "."],
        ),
        (fast(models.WordLevel({"a": 0, "\ufffd": 1, "cat": 2, ".": 3})), "a \ufffd cat .", ["a", " \ufffd", " cat", " ."]),
        (
            fast(models.WordLevel({"a</w>": 0, "po": 1, "cat</w>": 2, ".": 3}), decoders.BPEDecoder()),
            "a pocat .",
            ["a", " po", "cat", " ."],
        ),
        (
            fast(models.Unigram([("▁a", 0.0), ("▁c", 0.0), ("at", 0.0), (".", 0.0)]), decoders.Metaspace()),
            "a cat.",
            ["a", " c", "at", "."],
        ),
    ],
    ids=["word pieces", "whole words", "words with an end", "unigrams"],
)
def test_other_vocabularies_are_told_apart_by_decoding(tokenizer: Any, text: str, held: list[str]) -> None:
    tokens = token_map("llava", tokenizer, IMAGE, [0, 1, 2, 3], [], None)
    assert tokens.text() == text
    spans = [[n for n in range(len(text)) if p in tokens.characters(n, n + 1, None).positions] for p in range(4)]
    assert [text[s[0] : s[-1] + 1] for s in spans] == held


def test_the_embedded_models_tokenizer_tells_bytes_apart() -> None:
    from fseg.glyphs import llava_folder

    tokenizer = AutoTokenizer.from_pretrained(llava_folder())
    ids = tokenizer("Yes 😺\ufffd é", add_special_tokens=False)["input_ids"]
    tokens = token_map("llava", tokenizer, 9999, ids, [], None)
    text = "Yes 😺\ufffd é"
    assert tokens.text() == text
    held = [tokens.characters(n, n + 1, None).positions for n in (4, 5, 7)]
    assert [len(positions) for positions in held] == [4, 3, 2]
