"""Questions and answers of the training, and the tokenizer that is trained on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from fseg.glyphs.scenes import CLASSES
from fseg.vocabulary.questions import QUESTIONS, Article, affirmation, question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IMAGE, PAD, BEGIN, END = "<image>", "<pad>", "<s>", "</s>"
NO = " No."
BEFORE, AFTER = "USER: ", " ASSISTANT:"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: "
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{% else %} ASSISTANT: "
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
    "</s>"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
"""LLaVA-1.5's form, without Vicuna's system text."""

FREE_FORMS = (
    "Is there {a}{c}?",
    "Find the {c}.",
    "find the {c}",
    "Where is the {c}?",
    "Can you see {a}{c} in the image?",
    "Segment the {c}.",
)
"""Short free questions; they get the same answers."""

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


def size_word(area: float) -> str:
    """A word for the size, from the share of the image that is covered."""
    return "small" if area < 0.025 else "medium" if area < 0.08 else "large"


def position_phrase(x: float, y: float) -> str:
    """A phrase for the position, from the centre of the bounding box as shares of width and height."""
    row = "top" if y < 0.38 else "bottom" if y > 0.62 else ""
    col = "left" if x < 0.38 else "right" if x > 0.62 else ""
    if not row and not col:
        return "in the centre"
    if not row:
        return f"on the {col}"
    return f"at the {row} {col}" if col else f"at the {row}"


def description(name: str, thing: Float32[np.ndarray, "12"]) -> str:
    """The second sentence of an answer: a true description of a thing (a row of `corpus.Shard.things`)."""
    colour = thing[4:7] if thing[7] > 0.5 else thing[1:4]
    return f"The {name} is {size_word(float(thing[11]))} and {colour_word(colour)}, {position_phrase(float(thing[8]), float(thing[9]))}."


def answer(name: str, thing: Float32[np.ndarray, "12"] | None, article: Article = "a") -> str:
    """The correct answer after "ASSISTANT:"; `thing` None: it is absent."""
    return NO if thing is None else f" {affirmation(name, article)} {description(name, thing)}"


def free(form: str, name: str, article: Article) -> str:
    a = "" if article == "none" else "an " if article == "auto" and name[0] in "aeiou" else "a "
    return form.format(a=a, c=name)


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
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    words = Regex(r" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]|\s+(?!\S)|\s+")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        special_tokens=[PAD, BEGIN, END, IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=9,
        show_progress=False,
    )
    core.train_from_iterator(_training_text(), trainer)
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


@lru_cache(maxsize=200_000)
def turn(asked: str, name: str, reply: str) -> Turn:
    """The tokens of a question and its answer, as they follow the image."""
    encode = tokenizer()
    before = encode("\n" + asked + AFTER, return_offsets_mapping=True, add_special_tokens=False)
    after = encode(reply, return_offsets_mapping=True, add_special_tokens=False)
    start = len(before["input_ids"])

    def last_piece(text: str, offsets: list[tuple[int, int]], since: int = 0) -> int:
        end = text.index(name, since) + len(name)
        return next(k for k, (first, stop) in enumerate(offsets) if first < end <= stop)

    words = [last_piece("\n" + asked + AFTER, before["offset_mapping"])]
    second = len(after["input_ids"])
    if reply != NO:
        words.append(start + last_piece(reply, after["offset_mapping"]))
        second = next(k for k, (first, _) in enumerate(after["offset_mapping"]) if first >= reply.index(".") + 1)
    end = encode.convert_tokens_to_ids(END)
    return Turn((*before["input_ids"], *after["input_ids"], end), start, tuple(words), start + second)
