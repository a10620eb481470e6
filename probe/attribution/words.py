"""Words as single tokens of a vocabulary, and tokens as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from probe.errors import InvalidRead, ProcessorNeeded
from probe.inputs.text import suffix_ids
from probe.tokens.integers import as_int

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Word = str | int
"""A word that is one token, or a token's id."""
_BEFORE = "a"
"""Words are tokenised as they stand in a text, after another word."""


def token_ids(words: Word | Sequence[Word], tokenizer: PreTrainedTokenizerBase | None, size: int) -> dict[int, str]:
    """The token of each word, and the word; a token given by its id is called by its text.

    A word is the token that it is in running text, as in `probe.Choice`: " cat" for "cat". Where that takes several tokens and the bare
    word is one, as in scripts without spaces, or a piece of the vocabulary, it is that one.

    Args:
        size: of the vocabulary.

    Raises:
        InvalidRead: no words, a word of several tokens, a token that the vocabulary lacks, or two words of one token.
        ProcessorNeeded: words, in a model without a processor.
    """
    given = (words,) if isinstance(words, str) or as_int(words) is not None else tuple(words)  # type: ignore[arg-type]
    if not given:
        raise InvalidRead("words=(): name one or more words, such as words=('cat', 'dog').")
    found: dict[int, str] = {}
    for word in given:
        token, name = _token(word, tokenizer, size)
        if token in found:
            raise InvalidRead(f"The words {found[token]!r} and {name!r} are one token, {token}. Name it once.")
        found[token] = name
    return found


def text_of_token(token: int, tokenizer: PreTrainedTokenizerBase | None) -> str:
    """A token's text; `<7>` without a processor."""
    return f"<{token}>" if tokenizer is None else str(tokenizer.decode([token]))


def _token(word: object, tokenizer: PreTrainedTokenizerBase | None, size: int) -> tuple[int, str]:
    token = as_int(word)
    if token is not None:
        if not 0 <= token < size:
            raise InvalidRead(f"Token {token} was asked for; the vocabulary has tokens 0 to {size - 1}.")
        return token, text_of_token(token, tokenizer)
    if not isinstance(word, str) or not word.strip():
        raise InvalidRead(f"words: {word!r} is not a word. A word is text that is one token, such as 'cat', or a token's id.")
    if tokenizer is None:
        raise ProcessorNeeded(
            f"The word {word!r} needs a processor: load with probe.load(model=..., processor=...). Without one, words are token ids."
        )
    return _word_token(word, tokenizer), word


def _word_token(word: str, tokenizer: PreTrainedTokenizerBase) -> int:
    in_text = list(suffix_ids(tokenizer, _BEFORE, word))
    bare = list(tokenizer(word, add_special_tokens=False)["input_ids"])
    for ids in (in_text, bare, [tokenizer.convert_tokens_to_ids(word)]):
        if len(ids) == 1 and ids[0] not in (None, tokenizer.unk_token_id):
            return int(ids[0])
    pieces = ", ".join(f"{piece!r} ({token})" for piece, token in zip(tokenizer.convert_ids_to_tokens(in_text), in_text, strict=True))
    raise InvalidRead(f"The word {word!r} is no token of this vocabulary; it is written as {pieces}. Name one of these by its number.")
