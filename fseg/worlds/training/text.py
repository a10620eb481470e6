"""The language of the training: free questions, and tokenizers that are trained on it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fseg.vocabulary.questions import Article

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FREE_FORMS = (
    "Is there {a}{c}?",
    "Find the {c}.",
    "find the {c}",
    "Where is the {c}?",
    "Can you see {a}{c} in the image?",
    "Segment the {c}.",
)
"""Short free questions; they get the same answers."""

LLAVA_TEMPLATE = (
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


def free(form: str, name: str, article: Article) -> str:
    """A free question about a class."""
    a = "" if article == "none" else "an " if article == "auto" and name[0] in "aeiou" else "a "
    return form.format(a=a, c=name)


def byte_pairs(lines: Iterable[str], specials: list[str], size: int, least: int) -> Tokenizer:
    """A byte-level BPE of at most `size` tokens, trained on lines; pairs that occur less than `least` times are not merged."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    words = Regex(r" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]|\s+(?!\S)|\s+")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=least,
        show_progress=False,
    )
    core.train_from_iterator(lines, trainer)
    return core
