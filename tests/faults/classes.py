"""Hostile class names, through the whole chain: each is refused, or read by the model as it was written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import fseg
import probe
from probe.errors import ProbeError
from tests import zoo
from tests.faults.campaign import Campaign, Outcome
from tests.planted import plant
from tests.unit.fseg.sams import tiny_sam

SPECIAL = (
    "</s>",
    "<s>",
    "<unk>",
    "<image>",
    "a </s> b",
    "cat<s>",
    "<image> cat",
    "<|im_end|>",
    "[INST]",
    "<0x0A>",
    "USER:",
    "ASSISTANT: yes",
)
FORMAT = (
    "{c}",
    "{question}",
    "{a}{c}",
    "{",
    "}",
    "{}",
    "%s",
    "%(c)s",
    "{0}",
    "$cat$",
    "${HOME}",
    "\\N{DIGIT ONE}",
    "{c!r:>{a}}",
    "{{cat}}",
)
REGEX = (
    ".*",
    "c++",
    "(cat",
    "[cat]",
    "a|b",
    "^cat$",
    "\\d+",
    "cat?",
    "(?i)cat",
    "\\",
    "\\b",
    "+",
    "*",
    "?",
    ".",
    "...",
    "a.b",
    "cat.",
    "cat!",
)
CONTROL = (
    "\x00",
    "cat\x00",
    "\x07",
    "a\x1bb",
    "\x7f",
    "\x85",
    "a\nb",
    "\n",
    "a\tb",
    "\r\n",
    "\x02words\x03",
    "\u2028",
    "a\u2029b",
    "\x1b[31mcat",
)
WRITING = (
    *("قطة", "חתול", "\u202ecat", "cat\u202c", "a\u200db", "\u200b", "\ufeff", "猫", "龘", "ネコ", "고양이", "แมว", "кот", "γάτα", "बिल्ली"),
    *(
        "😺",
        "👩\u200d👩\u200d👧",
        "🇩🇪",
        "é",
        "e\u0301",
        "ﬁsh",
        "ß",
        "İ",
        "ſ",
        "½",
        "²",
        "\u00a0",
        "a\u00a0b",
        "\u3000",
        "Å",
        "\ufffd",
        "\U0010ffff",
    ),
)
SURROGATES = ("\ud800", "cat\udce9", "\udfff\ud800", "\ud83d", "a\ude3ab")
MARKS = (
    "a,b",
    ",",
    ", ,",
    "'",
    '"',
    "'cat'",
    '"cat"',
    "-",
    "--",
    "_",
    "/",
    "../cat",
    "a/b",
    "#cat",
    "@",
    "&",
    "<",
    ">",
    "<cat>",
    "~",
    "`",
    "|",
)
LENGTH = (
    "",
    " ",
    "   ",
    "a",
    "a" * 200,
    "a" * 201,
    "cat " * 50,
    "cat " * 20_000,
    "猫" * 200,
    "😺" * 200,
    ". " * 100,
    "yes",
    "No.",
    "0",
    "-1",
)

NAMES = (*SPECIAL, *FORMAT, *REGEX, *CONTROL, *WRITING, *SURROGATES, *MARKS, *LENGTH)


def _trials(n: int, folder: Path, rng: np.random.Generator) -> Iterator[Outcome]:
    hf, processor = plant(zoo.llava(), "plant")
    model = probe.load(model=hf, processor=processor, resize="stretch", tiles=False)
    recipe = fseg.get_recipe("fseg-llava-1.5-vicuna-7b").with_(
        {"respond.layers": (1, 3), "ask.max_new_tokens": 4, "ask.presence": "assume"}
    )
    segmenter = fseg.Segmenter(recipe, backbone=model, sam=tiny_sam())
    picture = Image.new("RGB", (80, 40), "black")
    picture.paste("white", (40, 10, 60, 20))
    pairs = (f"{NAMES[a]}{NAMES[b]}" for a, b in rng.integers(len(NAMES), size=(n, 2)))
    names = (*NAMES[:: max(1, len(NAMES) // n)], *pairs)
    for name in names[:n]:
        yield _segmented(segmenter, picture, name)


def _segmented(segmenter: fseg.Segmenter, picture: Image.Image, name: str) -> Outcome:
    try:
        result = segmenter(picture, [name])
    except ProbeError:
        return Outcome("refused")
    except Exception as error:  # what a campaign looks for
        return Outcome("raw exception", f"{name[:40]!r}: {type(error).__name__}: {str(error)[:200]}")
    (found,) = result.evidence.values()
    if not found.present:
        return Outcome("absent", f"{name[:40]!r}: absent, though every class is assumed to be there")
    # The answer was written for the model: it holds the name, if the model read it.
    if found.name.casefold() not in found.answer.casefold():
        return Outcome("misread", f"{name[:40]!r}: the model read {found.answer!r}")
    return Outcome("segmented")


CAMPAIGNS = [Campaign("class-names", "hostile class names through the whole chain", 200, 40, _trials)]
