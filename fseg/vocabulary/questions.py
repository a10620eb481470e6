"""The questions of the question-answer pipeline (paper, section 3.2 and Table 2)."""

from __future__ import annotations

from typing import Literal

Article = Literal["a", "auto", "none"]

_TAIL = (
    "If no, just say 'No.' If yes, the answer has to be two sentences, the first sentence is 'yes, it contains {a}{c}.' "
    "The second sentence is to describe {c}."
)

QUESTIONS: dict[str, str] = {
    "class": "Does the image have the class of {a}{c}? Answer yes or no to this question. " + _TAIL,
    "class-table-2": "Does the image have the class of {c}? Answer yes or no for this question. " + _TAIL,
    "contain": "Does the image contain {a}{c}? Answer yes or no for this question. " + _TAIL,
    "photo": "Is a photo of {a}{c}? Answer yes or no for this question. " + _TAIL,
}
"""The openings of Table 2 by name. "class" is the wording of section 3.2; Table 2's has no article and "for this question"."""

NAME, ARTICLE = "{name}", "{article}"
"""What a question of one's own holds in place of the class name and of the article before it."""


def _article(name: str, article: Article) -> str:
    if article == "none":
        return ""
    return "an " if article == "auto" and name[:1].casefold() in "aeiou" else "a "


def question(name: str, wording: str = "class", article: Article = "a") -> str:
    """The question about one class name.

    Args:
        wording: a key of `QUESTIONS`; or a text of your own, in which `{name}` and `{article}` (with the space after it) are put in and any
            other brace stays.

    >>> question("cat").split("?")[0]
    'Does the image have the class of a cat'
    >>> question("umbrella", "Is there {article}{name}?", "auto")
    'Is there an umbrella?'
    """
    if wording in QUESTIONS:
        return QUESTIONS[wording].format(a=_article(name, article), c=name)
    # The article first: a name may hold any text, and is put in as it is.
    return wording.replace(ARTICLE, _article(name, article)).replace(NAME, name)


def affirmation(name: str, article: Article = "a") -> str:
    """S_0 of Eq. 2: the first sentence of a yes, as the question asks for it.

    >>> affirmation("umbrella", "auto")
    'yes, it contains an umbrella.'
    """
    return f"yes, it contains {_article(name, article)}{name}."
