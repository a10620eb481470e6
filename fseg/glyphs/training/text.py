"""Questions and answers of the training, and the tokenizer that is trained on them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from fseg.glyphs.scenes import CLASSES
from fseg.vocabulary.questions import QUESTIONS, Article, affirmation, question
from fseg.worlds.places import position_phrase, size_word
from fseg.worlds.training.text import FREE_FORMS, byte_pairs, free
from fseg.worlds.training.turns import Form, Turn, tokenised

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IMAGE, PAD, BEGIN, END = "<image>", "<pad>", "<s>", "</s>"
NO = " No."
BEFORE, AFTER = "USER: ", " ASSISTANT:"
FORM = Form(before="\n", after=AFTER, end=END, no=NO)
_NOUNS = """
dog car person bird boat chair table train bus bicycle sheep bottle sofa plant television truck elephant bear zebra giraffe bench
apple banana cake pizza bed laptop clock book vase knife spoon bowl kite ball tree house grass road wall window door fish frog
rabbit duck lion tiger hat shoe lamp guitar piano drum candle ladder hammer key ring crown bridge tower fire moon leaf flower
mushroom
"""
STRANGERS = tuple(_NOUNS.split())
"""Names of things that no scene has: the answer is no."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 30, 30),
    "orange": (245, 140, 20),
    "yellow": (240, 235, 40),
    "green": (40, 190, 50),
    "cyan": (50, 220, 225),
    "blue": (40, 50, 225),
    "purple": (130, 40, 180),
    "magenta": (235, 50, 225),
    "pink": (250, 160, 190),
    "brown": (125, 75, 35),
    "white": (245, 245, 245),
    "grey": (128, 128, 128),
    "black": (15, 15, 15),
}


def colour_word(rgb: Float32[np.ndarray, "3"]) -> str:
    """The nearest named colour."""
    return min(COLOURS, key=lambda name: float(np.square(np.asarray(COLOURS[name]) - rgb).sum()))


def description(name: str, thing: Float32[np.ndarray, "12"]) -> str:
    """The second sentence of an answer: a true description of a thing (a row of `corpus.Shard.things`)."""
    colour = thing[4:7] if thing[7] > 0.5 else thing[1:4]
    return f"The {name} is {size_word(float(thing[11]))} and {colour_word(colour)}, {position_phrase(float(thing[8]), float(thing[9]))}."


def answer(name: str, thing: Float32[np.ndarray, "12"] | None, article: Article = "a") -> str:
    """The correct answer after "ASSISTANT:"; `thing` None: it is absent."""
    return NO if thing is None else f" {affirmation(name, article)} {description(name, thing)}"


def prompt(asked: str) -> str:
    """The whole prompt, with the image token."""
    return f"{BEFORE}{IMAGE}\n{asked}{AFTER}"


def aliases(name: str) -> tuple[str, ...]:
    """A class name, and its last word if it has two."""
    return (name, name.split()[-1]) if " " in name else (name,)


def _training_text() -> list[str]:
    """The tokenizer's training text. Some class names are rare in it, so that they have several tokens."""
    split = ("snowman", "umbrella", "airplane", "scissors", "ship anchor", "desk telephone", "monkey")
    whole = [name for name in CLASSES if name not in split]
    lines = [question(name, wording) + AFTER for wording in QUESTIONS for name in whole for _ in range(3)]
    rng = np.random.default_rng(0)
    for _ in range(3000):
        name = str(rng.choice(whole))
        thing = np.concatenate([[0], rng.uniform(0, 255, 6), rng.random(3), [0], rng.uniform(0, 0.15, 1)]).astype(np.float32)
        lines.append(answer(name, thing if rng.random() < 0.7 else None))
    lines += [free(form, name, "a") for form in FREE_FORMS for name in whole for _ in range(3)]
    pieces = (
        " snow",
        "man",
        " umb",
        "rella",
        " air",
        "plane",
        " sciss",
        "ors",
        " ship",
        " anch",
        "or",
        " mon",
        "key",
        " desk",
        " tele",
        "phone",
    )
    return [*lines, *CLASSES, *STRANGERS, *(piece for piece in pieces for _ in range(40))]


@lru_cache(maxsize=1)
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 640 tokens, trained when called (in about a second)."""
    from transformers import PreTrainedTokenizerFast

    core = byte_pairs(_training_text(), [PAD, BEGIN, END, IMAGE], size=640, least=9)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


@lru_cache(maxsize=200_000)
def turn(asked: str, name: str, reply: str) -> Turn:
    """The tokens of a question and its answer, as they follow the image."""
    return tokenised(tokenizer(), FORM, asked, name, reply)
