"""The text of tokens, and the characters of it that each token holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REPLACEMENT = "\ufffd"
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WIDEST_CHARACTER = 4  # bytes in UTF-8


@dataclass(frozen=True)
class TokenText:
    """The text of a sequence of tokens.

    Attributes:
        text: what the tokenizer decodes, surrounding white space stripped.
        starts, stops: for each token, the characters [start, stop) of the text that it holds bytes of; equal where it holds none.
    """

    text: str
    starts: tuple[int, ...]
    stops: tuple[int, ...]


@dataclass(frozen=True)
class Detokenizer:
    """Token ids to text. Holds a tokenizer and nothing of the model, so that it can be pickled; copies share the tokenizer.

    Attributes:
        tokenizer: a Hugging Face tokenizer.
    """

    tokenizer: PreTrainedTokenizerBase

    def __deepcopy__(self, memo: dict[int, object]) -> Detokenizer:
        return self

    def __call__(self, ids: Sequence[int]) -> str:
        """`tokenizer.decode`, special tokens left out, without clean-up of spaces."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each token as the vocabulary spells it; empty for special tokens, which `decode` leaves out."""
        special = _special_ids(self.tokenizer)
        spelled = self.tokenizer.convert_ids_to_tokens(list(ids))
        return ["" if token in special else piece or "" for token, piece in zip(ids, spelled, strict=True)]


_SPECIAL: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, frozenset[int]]] = WeakKeyDictionary()
"""A tokenizer -> its size and special ids: listing thousands of added tokens at each call would be slow."""


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids that `decode` leaves out."""
    size = len(tokenizer)
    known = _SPECIAL.get(tokenizer)
    if known is None or known[0] != size:
        added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        known = _SPECIAL[tokenizer] = (size, frozenset(added.union(tokenizer.all_special_ids)))
    return known[1]


def text_of(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> TokenText:
    """The text of these tokens, in time linear in their number.

    A character belongs to exactly the tokens that hold its bytes. The bytes are read from the vocabulary's spelling, SentencePiece's or
    byte-level BPE's, if that gives the same text as `decode`. Other vocabularies are decoded piece by piece over a short window.

    Args:
        decode: ids to text; the vocabulary's spelling is used if this is a `Detokenizer`.
    """
    whole = decode(ids)
    if isinstance(decode, Detokenizer):
        pieces = decode.pieces(ids)
        for to_bytes in (_sentencepiece_bytes, _byte_level_bytes):
            piece_bytes = to_bytes(pieces)
            spelled = b"".join(piece_bytes).decode("utf-8", "replace")
            if spelled.strip() == whole.strip():
                return _stripped(spelled, _characters_of_bytes(spelled, piece_bytes))
    return _stripped(whole, list(_characters_by_decoding(ids, decode, whole)))


def vocabulary_texts(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The text of each token as the vocabulary spells it, with its leading space, by ascending id.

    Special tokens have none; bytes that are no whole characters are U+FFFD.
    """
    ids = sorted(tokenizer.get_vocab().values())
    pieces = Detokenizer(tokenizer).pieces(ids)
    to_bytes = _sentencepiece_bytes if any("▁" in piece for piece in pieces) else _byte_level_bytes
    return {number: spelled.decode("utf-8", "replace") for number, spelled in zip(ids, to_bytes(pieces), strict=True)}


def _stripped(whole: str, characters: Sequence[tuple[int, int]]) -> TokenText:
    """The text without surrounding white space, and each token's characters of it."""
    text, margin = whole.strip(), len(whole) - len(whole.lstrip())

    def inside(edge: int) -> int:
        return min(max(edge - margin, 0), len(text))

    return TokenText(text, tuple(inside(start) for start, _ in characters), tuple(inside(stop) for _, stop in characters))


def _sentencepiece_bytes(pieces: Sequence[str]) -> list[bytes]:
    """The bytes of each piece: "▁" is a space and `<0xNN>` a byte.

    A run of byte pieces that is no valid UTF-8 is decoded to one U+FFFD for each piece.
    """
    result: list[bytes] = []
    for is_bytes, run in groupby(pieces, key=lambda piece: _BYTE_PIECE.fullmatch(piece) is not None):
        if not is_bytes:
            result += [piece.replace("▁", " ").encode("utf-8", "replace") for piece in run]
            continue
        single = [bytes([int(piece[3:5], 16)]) for piece in run]
        result += single if _is_utf8(b"".join(single)) else [_REPLACEMENT.encode()] * len(single)
    return result


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@cache
def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's character for each byte: printable Latin-1 as it is, the others from U+0100 on, in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + number): byte for number, byte in enumerate(others)}


def _byte_level_bytes(pieces: Sequence[str]) -> list[bytes]:
    """The bytes of each piece; an added token with a character outside the alphabet stands for its own text."""
    alphabet = _byte_alphabet()
    return [
        bytes(alphabet[character] for character in piece)
        if all(character in alphabet for character in piece)
        else piece.encode("utf-8", "replace")
        for piece in pieces
    ]


def _characters_of_bytes(text: str, token_bytes: Sequence[bytes]) -> list[tuple[int, int]]:
    """For each token the characters (start, stop) that it holds a byte of.

    Args:
        text: the tokens' joined bytes, decoded, with U+FFFD for bytes that are no UTF-8.
    """
    character_of_byte = [number for number, width in enumerate(_widths(text, b"".join(token_bytes))) for _ in range(width)]
    edges = pairwise(accumulate(map(len, token_bytes), initial=0))
    return [(character_of_byte[first], character_of_byte[stop - 1] + 1) if first < stop else (0, 0) for first, stop in edges]


def _widths(text: str, data: bytes) -> Iterator[int]:
    """How many bytes of the data each character of the text was decoded from."""
    start = 0
    for character in text:
        width = len(character.encode())
        if character == _REPLACEMENT and not data.startswith(_REPLACEMENT.encode(), start):
            width = _invalid_width(data[start : start + _WIDEST_CHARACTER])
        yield width
        start += width


def _invalid_width(data: bytes) -> int:
    """How many bytes at the beginning, which are no character, are decoded to one U+FFFD."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.end
    raise AssertionError("decoded to U+FFFD, but valid UTF-8")


_SINGLE_STEPS = 8  # tokens that are added one by one: more than the bytes of a character


def _characters_by_decoding(ids: Sequence[int], decode: Callable[[Sequence[int]], str], whole: str) -> Iterator[tuple[int, int]]:
    """For each token its characters (start, stop), found as a streaming detokenizer finds them.

    Tokens are decoded together with the last ones that gave text, since a piece alone may lose its leading space. As long as the result
    does not continue as the whole text does, the last character is incomplete: it belongs to the tokens that complete it as well.
    """
    context = done = position = 0  # the first token decoded as context, the first without characters, the first character without a token
    while done < len(ids):
        known = decode(ids[context:done]) if context < done else ""
        begun, tried, size = position, done, 0
        while True:
            size += 1 if size < _SINGLE_STEPS else size
            stop = min(done + size, len(ids))
            grown = decode(ids[context:stop])
            gain = grown.removeprefix(known) if grown.startswith(known) else None
            if stop == len(ids):
                end = len(whole)
            elif gain is not None and whole.startswith(gain, position):
                end = position + len(gain)
            else:
                reached = max(begun, position + _common_length(gain or "", whole, position))
                yield from [(begun, reached + 1)] * (stop - tried)
                begun, tried = reached, stop
                continue
            yield from [(begun, end)] * (stop - tried)
            break
        context = done if end > position else context
        done, position = stop, end


def _common_length(part: str, whole: str, start: int) -> int:
    """How many characters of a part are those of the whole text from `start` on."""
    for number, character in enumerate(part):
        if whole[start + number : start + number + 1] != character:
            return number
    return len(part)
