"""Questions and answers of the training, in the forms of two families, and the tokenizers that are trained on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fseg.stickers.descriptions import DIRECTIONS, with_article
from fseg.stickers.drawings import CLASSES, SYNONYMS
from fseg.vocabulary.questions import QUESTIONS, Article, affirmation, question
from fseg.worlds.training.text import FREE_FORMS, LLAVA_TEMPLATE, byte_pairs, free
from fseg.worlds.training.turns import Asked, Form, Turn, packed, tokenised

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TURNS, REPLY = 4, 32  # questions to an image, tokens of an answer

_NOUNS = """
table bench zebra giraffe bear truck house tree door window key lamp hat shoe drum piano candle ladder hammer ring crown bridge tower fire
moon star heart sun cloud leaf flower mushroom fish frog rabbit mouse monkey lion tiger snail cake bread egg knife fork spoon bowl ball kite
rocket bell anchor camera phone bed
"""
STRANGERS = tuple(_NOUNS.split())
"""Names of things that no scene has: the answer is no."""

_SPLIT = ("umbrella", "airplane", "scissors", "television", "elephant", "motorbike", "banana", "bicycle")
_PIECES = (
    " umb",
    "rella",
    " air",
    "plane",
    " sciss",
    "ors",
    " tele",
    "vision",
    " eleph",
    "ant",
    " motor",
    "bike",
    " ban",
    "ana",
    " bi",
    "cycle",
)
"""These names have several tokens, which are these."""


@dataclass(frozen=True)
class Language:
    """How one family writes.

    Attributes:
        start: before the first image token.
        form: what follows the image tokens.
        image: the image token.
        pad: the token that pads.
        specials: all special tokens.
        template: the chat template.
        length: tokens of a question with its answer, in training; the longest answers lose their end.
    """

    name: str
    start: str
    form: Form
    image: str
    pad: str
    specials: tuple[str, ...]
    template: str
    length: int

    @property
    def yes(self) -> str:
        """What a yes begins with."""
        return self.form.no[:-3] + "yes"


LLAVA = Language(
    name="llava",
    start="USER: ",
    form=Form(before="\n", after=" ASSISTANT:", end="</s>", no=" No."),
    image="<image>",
    pad="<pad>",
    specials=("<pad>", "<s>", "</s>", "<image>"),
    template=LLAVA_TEMPLATE,
    length=92,
)
QWEN = Language(
    name="qwen",
    start="<|im_start|>user\n<|vision_start|>",
    form=Form(before="<|vision_end|>", after="<|im_end|>\n<|im_start|>assistant\n", end="<|im_end|>", no="No."),
    image="<|image_pad|>",
    pad="<|endoftext|>",
    specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"),
    template=(
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}"
        "{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
        "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
        "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    length=100,
)


def answer(name: str, description: str | None, article: Article = "a") -> str:
    """The correct answer, without what a family writes before it; `description` None: the class is absent."""
    return "No." if description is None else f"{affirmation(name, article)} {description}"


def _training_text() -> list[str]:
    """The tokenizers' training text. Some class names do not occur in it as a whole, so that they have several tokens."""
    whole = [name for name in CLASSES if name not in _SPLIT]
    lines = [question(name, wording) + " ASSISTANT:" for wording in QUESTIONS for name in whole for _ in range(3)]
    lines += [free(form, name, "a") for form in FREE_FORMS for name in whole for _ in range(3)]
    rng = np.random.default_rng(0)
    places = ("on the left", "on the right", "in the centre", "at the top", "at the bottom", "at the top left", "at the bottom right")
    for _ in range(3000):
        name, other = (str(each) for each in rng.choice(whole, 2))
        beside = f", {rng.choice(list(DIRECTIONS))} {with_article(other)}" if rng.random() < 0.7 else ""
        description = f"It is {rng.choice(['small', 'medium', 'large'])}, {rng.choice(places)}{beside}."
        space = " " if rng.random() < 0.5 else ""
        lines.append(space + answer(name, description if rng.random() < 0.7 else None))
    return [
        *lines,
        *CLASSES,
        *(f" {name}" for name in SYNONYMS for _ in range(9)),
        *STRANGERS,
        *(piece for piece in _PIECES for _ in range(40)),
    ]


@lru_cache(maxsize=2)
def tokenizer(language: Language) -> PreTrainedTokenizerFast:
    """A byte-level BPE, trained when called (in about a second)."""
    from transformers import PreTrainedTokenizerFast

    core = byte_pairs(_training_text(), list(language.specials), size=640, least=9)
    named = {"image_token": language.image}
    if language is QWEN:
        named |= {"video_token": "<|video_pad|>", "vision_bos_token": "<|vision_start|>", "vision_eos_token": "<|vision_end|>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=language.pad,
        bos_token="<s>" if language is LLAVA else None,
        eos_token=language.form.end,
        extra_special_tokens=named,
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def start_tokens(language: Language) -> Int64[Tensor, " token"]:
    """The tokens before the image."""
    return torch.tensor(tokenizer(language)(language.start, add_special_tokens=False)["input_ids"])


@lru_cache(maxsize=200_000)
def turn(language: Language, asked: str, name: str, reply: str) -> Turn:
    """The tokens of a question and its answer, as they follow the image."""
    return tokenised(tokenizer(language), language.form, asked, name, language.form.no[:-3] + reply)


Question = tuple[str, str, str, int]
"""The question, the name used in it, the answer, and the label asked about or 0."""


def _ask(rng: np.random.Generator, name: str) -> tuple[str, str, Article]:
    """A random question about a class: the question, the name used in it, the article."""
    others = [other for other, meant in SYNONYMS.items() if meant == name]
    used = str(rng.choice(others)) if others and rng.random() < 0.2 else name
    article = cast(Article, str(rng.choice(["a", "auto", "none"], p=[0.7, 0.2, 0.1])))
    wording = str(rng.choice(["class", "class-table-2", "contain", "photo", "free"], p=[0.56, 0.12, 0.12, 0.1, 0.1]))
    if wording == "free":
        return free(str(rng.choice(FREE_FORMS)), used, article), used, article
    return question(used, wording, article), used, article


def choose(
    rng: np.random.Generator, described: dict[int, str], likeness: Float[np.ndarray, "label"], positives: tuple[float, ...]
) -> list[Question]:
    """Questions for one scene.

    Args:
        described: class number -> true description.
        likeness: for each class, how much some cell looks like it; absent classes that look present are asked about more often.
        positives: the chances of asking for 0, 1, 2, ... of the stickers in the scene.
    """
    count = min(int(rng.choice(len(positives), p=positives)), len(described))
    turns: list[Question] = []
    for index in rng.permutation(sorted(described))[:count].tolist():
        asked, name, article = _ask(rng, CLASSES[index])
        turns.append((asked, name, answer(name, described[index], article), index + 1))
    chance = np.array([0.0 if index in described else 0.1 + float(likeness[index]) for index in range(len(CLASSES))])
    for index in rng.choice(len(CLASSES), TURNS - count, replace=False, p=chance / chance.sum()).tolist():
        asked, name, _ = _ask(rng, str(rng.choice(STRANGERS)) if rng.random() < 0.08 else CLASSES[index])
        turns.append((asked, name, answer(name, None), 0))
    return [turns[k] for k in rng.permutation(len(turns))]


def all_questions(described: dict[int, str]) -> list[Question]:
    """The question about each class, for one scene."""
    return [
        (question(name), name, answer(name, described.get(index)), (index + 1) * (index in described)) for index, name in enumerate(CLASSES)
    ]


def collate(language: Language, scenes: list[list[Question]]) -> Asked:
    """Tokens and targets of a batch of questions."""
    return packed(
        [[(turn(language, asked, name, said), label) for asked, name, said, label in scene] for scene in scenes], language.length, REPLY
    )
