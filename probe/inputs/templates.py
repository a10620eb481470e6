"""Chat templates by name, for checkpoints whose processor carries none (or another)."""

from __future__ import annotations

from probe.errors import TemplateError

PLACEHOLDER = "<image>"

TEMPLATES: dict[str, str] = {
    "vicuna_v1": (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
        "answers to the user's questions. USER: <image>\n{question} ASSISTANT:"
    ),
    "mistral_instruct": "[INST] <image>\n{question} [/INST]",
}


def render(template: str, question: str, images: int, image_token: str) -> tuple[str, int]:
    """The prompt of one question under a template, and the character where the question begins in it. The question is taken as it is.

    Args:
        template: a name of `TEMPLATES`, or a text with `{question}` and `<image>` in it.
        images: how many images the prompt shows; each gets an image token where the template has `<image>`.
        image_token: the model's own image placeholder.

    Raises:
        TemplateError: no such name, or a text without its fields.
    """
    text = TEMPLATES.get(template, template)
    if "{question}" not in text or (images and PLACEHOLDER not in text):
        raise TemplateError(
            f"No template {template!r}. Names: {', '.join(TEMPLATES)}. A template of your own holds {{question}} and {PLACEHOLDER}, "
            f"as in 'USER: {PLACEHOLDER}\\n{{question}} ASSISTANT:'."
        )
    shown = "\n".join([image_token] * images)
    before, after = (part.replace(PLACEHOLDER, shown) for part in text.split("{question}", 1))
    return before + question + after, len(before)


def refuse_image_token(text: str, image_token: str) -> None:
    """The image token in a user's own words would be taken for a picture."""
    if image_token in text:
        raise TemplateError(f"The text holds the image token {image_token!r}, which stands for a picture: {text[:80]!r}. Reword it.")


def check_text(text: str, image_token: str) -> None:
    """Refuse a user's text that cannot be part of a prompt. Other special tokens than the image token may be asked about.

    Raises:
        TemplateError: it holds the image token; or half of a surrogate pair, which is no character.
    """
    refuse_image_token(text, image_token)
    if not encodable(text):
        raise TemplateError(f"The text holds a lone surrogate, which is no character: {text[:80]!r}. Decode it from its bytes another way.")


def encodable(text: str) -> bool:
    """Whether a text can be written as UTF-8: half of a surrogate pair, as a file name of other bytes gives, cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
