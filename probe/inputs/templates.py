"""Prompt templates by name, for checkpoints whose processor has no chat template (or another one), and checks of what is put into them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from probe.errors import TemplateError

PLACEHOLDER = "<image>"
VIDEO_PLACEHOLDER = "<video>"
_FIELDS = re.compile(f"{PLACEHOLDER}|{VIDEO_PLACEHOLDER}")
QUESTION = "{question}"

TEMPLATES: Mapping[str, str] = {
    "vicuna_v1": (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
        "answers to the user's questions. USER: <image>\n{question} ASSISTANT:"
    ),
    "mistral_instruct": "[INST] <image>\n{question} [/INST]",
    "llava_v1": (
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
        "answers to the human's questions. USER: <image>\n{question} ASSISTANT:"
    ),
    "llava_hf": "USER: <image>\n{question} ASSISTANT:",
}
"""The templates that `encode(template=...)`, `open(template=...)` and a recipe's `ask.template` know by name.

LLaVA's code has `vicuna_v1`, `llava_v1` and `mistral_instruct` among its conversations; `llava_hf` is that of the llava-hf checkpoints.
"""

EXAMPLE = next(iter(TEMPLATES))
"""The name that error messages suggest."""


def render(template: str, question: str, images: int, image_token: str, videos: int = 0, video_token: str = "") -> tuple[str, int]:
    """The prompt of one question under a template, and the character at which the question begins in it.

    Args:
        template: a name of `TEMPLATES`, or a text with `{question}` and `<image>` in it.
        question: put in as it is, whatever characters it holds.
        images: how many images the prompt shows; each gets an image token in place of `<image>`.
        image_token: the model's own image token.
        videos, video_token: the same of videos, in place of `<video>`.

    Raises:
        TemplateError: no such name, or a text without its fields.

    Example:
        >>> from probe.inputs.templates import render
        >>> render("mistral_instruct", "Is there a cat?", 1, "<image>")
        ('[INST] <image>\\nIs there a cat? [/INST]', 15)
    """
    text = TEMPLATES.get(template, template)
    shown = [field for field, count in ((PLACEHOLDER, images), (VIDEO_PLACEHOLDER, videos)) if count]
    if QUESTION not in text or not all(field in text for field in shown):
        fields = shown or [PLACEHOLDER]
        raise TemplateError(
            f"No template {template!r}. Names: {', '.join(TEMPLATES)}. A template of your own holds {QUESTION} and {' and '.join(fields)}, "
            f"as in 'USER: {''.join(fields)}\\n{QUESTION} ASSISTANT:'."
        )
    tokens = {PLACEHOLDER: "\n".join([image_token] * images), VIDEO_PLACEHOLDER: "\n".join([video_token] * videos)}
    before, after = (re.sub(_FIELDS, lambda field: tokens[field.group()], part) for part in text.split(QUESTION, 1))
    return before + question + after, len(before)


def refuse_image_token(text: str, image_token: str) -> None:
    """Refuse a user's text that holds the image token: the model would take it for an image.

    Args:
        image_token: "" if the model has none.

    Raises:
        TemplateError: it does.
    """
    if image_token and image_token in text:
        raise TemplateError(f"The text holds the image token {image_token!r}, which stands for an image: {text[:80]!r}. Reword it.")


def check_text(text: str, image_token: str) -> None:
    """Refuse a user's text that cannot be part of a prompt. Special tokens other than the image token are allowed.

    Raises:
        TemplateError: it holds the image token, or half of a surrogate pair, which is no character.
    """
    refuse_image_token(text, image_token)
    if not encodable(text):
        raise TemplateError(f"The text holds a lone surrogate, which is no character: {text[:80]!r}. Decode it from its bytes another way.")


def encodable(text: str) -> bool:
    """Whether a text can be written as UTF-8; half of a surrogate pair, as in a file name of other bytes, cannot.

    Example:
        >>> from probe.inputs.templates import encodable
        >>> encodable("café"), encodable("caf\\udce9")
        (True, False)
    """
    return not any("\ud800" <= character <= "\udfff" for character in text)
