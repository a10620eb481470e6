"""The text of tokens, and the characters of it that each token holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, groupby, pairwise
from typing import Any
from weakref import WeakKeyDictionary

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
    """Token ids to text. Holds a tokenizer and nothing of the model, so that it can be pickled.

    Attributes:
        tokenizer: a Hugging Face tokenizer.
    """

    tokenizer: Any

    def __call__(self, ids: Sequence[int]) -> str:
        """`tokenizer.decode`, special tokens left out and nothing tidied up."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each token as the vocabulary spells it; empty for special tokens, which `decode` leaves out."""
        special = _special_ids(self.tokenizer)
        spelled = self.tokenizer.convert_ids_to_tokens(list(ids))
        return ["" if number in special else piece or "" for number, piece in zip(ids, spelled, strict=True)]


_SPECIAL: WeakKeyDictionary[Any, tuple[int, frozenset[int]]] = WeakKeyDictionary()


def _special_ids(tokenizer: Any) -> frozenset[int]:
    """The ids that `decode` leaves out, kept for each tokenizer: a vocabulary may have thousands of added tokens, listed anew at each call."""
    size = len(tokenizer)
    known = _SPECIAL.get(tokenizer)
    if known is None or known[0] != size:
        added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        known = _SPECIAL[tokenizer] = (size, frozenset(added.union(tokenizer.all_special_ids)))
    return known[1]


def text_of(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> TokenText:
    """The text of these tokens, in time linear in their number.

    A character belongs to exactly the tokens that hold its bytes. The bytes are taken from the vocabulary's own spelling, SentencePiece's
    or byte-level BPE's, whichever gives the text that `decode` gives. Other vocabularies are decoded piece by piece over a short window.

    Args:
        decode: ids to text; the spelling is known where this is a `Detokenizer`.
    """
    whole = decode(ids)
    if isinstance(decode, Detokenizer):
        pieces = decode.pieces(ids)
        for alphabet in (_sentencepiece_bytes, _byte_level_bytes):
            held = alphabet(pieces)
            spelled = b"".join(held).decode("utf-8", "replace")
            if spelled.strip() == whole.strip():
                return _stripped(spelled, _characters_of_bytes(spelled, held))
    return _stripped(whole, list(_characters_by_decoding(ids, decode, whole)))


def _stripped(whole: str, characters: Sequence[tuple[int, int]]) -> TokenText:
    text, margin = whole.strip(), len(whole) - len(whole.lstrip())

    def inside(edge: int) -> int:
        return min(max(edge - margin, 0), len(text))

    return TokenText(text, tuple(inside(start) for start, _ in characters), tuple(inside(stop) for _, stop in characters))


def _sentencepiece_bytes(pieces: Sequence[str]) -> list[bytes]:
    """The bytes of each piece: "▁" is a space and `<0xNN>` a byte.

    A run of byte pieces that is no valid UTF-8 is decoded to one U+FFFD for each piece.
    """
    held: list[bytes] = []
    for is_bytes, run in groupby(pieces, key=lambda piece: _BYTE_PIECE.fullmatch(piece) is not None):
        if not is_bytes:
            held += [piece.replace("▁", " ").encode("utf-8", "replace") for piece in run]
            continue
        single = [bytes([int(piece[3:5], 16)]) for piece in run]
        held += single if _is_utf8(b"".join(single)) else [_REPLACEMENT.encode()] * len(single)
    return held


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


def _characters_of_bytes(text: str, held: Sequence[bytes]) -> list[tuple[int, int]]:
    """For each token the characters that it holds a byte of.

    Args:
        text: the tokens' joined bytes, decoded, U+FFFD for what is no UTF-8.
    """
    owner = [number for number, width in enumerate(_widths(text, b"".join(held))) for _ in range(width)]
    edges = pairwise(accumulate(map(len, held), initial=0))
    return [(owner[first], owner[stop - 1] + 1) if first < stop else (0, 0) for first, stop in edges]


def _widths(text: str, data: bytes) -> Iterator[int]:
    """How many bytes of the data each character of the text was decoded from."""
    place = 0
    for character in text:
        width = len(character.encode())
        if character == _REPLACEMENT and not data.startswith(_REPLACEMENT.encode(), place):
            width = _invalid_width(data[place : place + _WIDEST_CHARACTER])
        yield width
        place += width


def _invalid_width(data: bytes) -> int:
    """How many bytes at the beginning, which are no character, are decoded to one U+FFFD."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.end
    raise AssertionError("decoded to U+FFFD, but valid UTF-8")


_SINGLY = 8  # tokens that are tried one by one: more than the bytes of a character


def _characters_by_decoding(ids: Sequence[int], decode: Callable[[Sequence[int]], str], whole: str) -> Iterator[tuple[int, int]]:
    """For each token its characters, found as a streaming detokenizer finds them.

    Tokens are decoded together with the last ones that gave text, since a piece alone may lose its leading space. As long as the result
    does not go on as the whole text does, the last character is incomplete: it belongs to the tokens that complete it as well.
    """
    context = done = place = 0
    while done < len(ids):
        known = decode(ids[context:done]) if context < done else ""
        begun, tried, size = place, done, 0
        while True:
            size += 1 if size < _SINGLY else size
            stop = min(done + size, len(ids))
            grown = decode(ids[context:stop])
            gain = grown.removeprefix(known) if grown.startswith(known) else None
            if stop == len(ids):
                end = len(whole)
            elif gain is not None and whole.startswith(gain, place):
                end = place + len(gain)
            else:
                reached = max(begun, place + _agreement(gain or "", whole, place))
                yield from [(begun, reached + 1)] * (stop - tried)
                begun, tried = reached, stop
                continue
            yield from [(begun, end)] * (stop - tried)
            break
        context = done if end > place else context
        done, place = stop, end


def _agreement(part: str, whole: str, start: int) -> int:
    """How many characters of a part are those of the whole from a place on."""
    for number, character in enumerate(part):
        if whole[start + number : start + number + 1] != character:
            return number
    return len(part)
