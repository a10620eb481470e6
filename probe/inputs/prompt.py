"""Prompts: from a user's words, messages or raw text to the text that the model reads, and where the user's words are in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from probe.errors import TemplateError
from probe.inputs.templates import check_text, render
from probe.inputs.text import Words

Messages = Sequence[Mapping[str, Any]]

_MARK = "\x02words\x03"  # stands for the user's words while their place in a chat template is looked for


def build_prompt(
    processor: Any, text: str | Messages, images: int, *, chat: bool = True, template: str | None = None
) -> tuple[str, Words | None]:
    """The prompt as text, with one image token an image, and the user's words in it.

    Args:
        text: the user's words, chat messages, or, with chat=False, the whole prompt.
        images: how many there are.
        template: a template by name or as text; None: the processor's own chat template.

    Raises:
        TemplateError: no template, one that does not fit, another number of image tokens than images, or special tokens in the user's
            words (a raw prompt may hold them).
    """
    token = image_token(processor)
    if not chat:
        if not isinstance(text, str):
            raise TemplateError("chat=False takes the raw prompt as a string, not messages.")
        prompt, words = text, None
    elif template is not None:
        if not isinstance(text, str):
            raise TemplateError("Messages are laid out by the processor's chat template; template= is for a single question.")
        check_text(text, token)
        prompt, start = render(template, text, images, token)
        words = Words.at(prompt, text, start)
    else:
        prompt, words = _chat(processor, text, images)
    shown = prompt.count(token)
    if shown != images:
        raise TemplateError(f"The prompt has {shown} image tokens ({token}) and {images} images were given. Give each image one token.")
    return prompt, words


def image_token(processor: Any) -> str:
    """What stands for a picture in a prompt; some processors keep it as a token, not as its text."""
    return str(processor.image_token)


def refuse_special_tokens(processor: Any, text: str) -> None:
    """Refuse words that this processor's tokenizer would not read as words.

    Raises:
        TemplateError: they hold a special token, which would end the prompt, begin another one or stand for an image.
    """
    tokenizer = processor.tokenizer
    added = [token.content for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special]
    for token in dict.fromkeys([image_token(processor), *tokenizer.all_special_tokens, *added]):
        if token in text:
            raise TemplateError(f"The text holds {token!r}, a special token of this model, which it does not read as words: {text[:80]!r}.")


def _chat(processor: Any, text: str | Messages, images: int) -> tuple[str, Words | None]:
    if processor.chat_template is None:
        raise TemplateError("This checkpoint has no chat template. Name one: template='vicuna_v1', or pass chat=False and a raw prompt.")
    if isinstance(text, str):
        text = [{"role": "user", "content": [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]}]
    messages = _checked(text)
    for part in (part for message in messages for part in message["content"]):
        check_text(str(part.get("text", "")), image_token(processor))
    prompt = _laid_out(processor, messages)
    place = _last_words(messages)
    if place is None:
        return prompt, None
    message, part = place
    words = messages[message]["content"][part]["text"]
    messages[message]["content"][part] = {"type": "text", "text": _MARK}
    start = _laid_out(processor, messages).find(_MARK)
    return prompt, Words.at(prompt, words, start) if start >= 0 and words.strip() else None


def _checked(messages: Messages) -> list[dict[str, Any]]:
    """Messages whose content is a list of parts, which every multimodal chat template reads.

    Raises:
        TemplateError: something else than messages.
    """
    checked: list[dict[str, Any]] = []
    for message in messages if isinstance(messages, (list, tuple)) else [messages]:
        content = message.get("content") if isinstance(message, Mapping) else None
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(message, Mapping) or not isinstance(parts, (list, tuple)) or not all(isinstance(part, Mapping) for part in parts):
            raise TemplateError(
                f"{message!r:.80} is no chat message. Give one text, or messages such as "
                "{'role': 'user', 'content': [{'type': 'image'}, {'type': 'text', 'text': 'What is this?'}]}; encode several prompts one by one."
            )
        checked.append({**message, "content": list(parts)})
    return checked


def _laid_out(processor: Any, messages: Messages) -> str:
    """The messages under the processor's chat template.

    Raises:
        TemplateError: the template, which is code in a sandbox, fails or was stopped.
    """
    try:
        return str(processor.apply_chat_template(messages, add_generation_prompt=True))
    except Exception as error:  # a template is the checkpoint's code, which can fail in any way
        raise TemplateError(
            f"The chat template of this checkpoint cannot lay out the messages ({type(error).__name__}: {error}). "
            "Name another one, such as template='vicuna_v1', or pass chat=False and a raw prompt."
        ) from error


def _last_words(messages: Messages) -> tuple[int, int] | None:
    """Which part of which message holds the user's last words."""
    for message in reversed(range(len(messages))):
        if messages[message].get("role") == "user":
            texts = [i for i, part in enumerate(messages[message]["content"]) if part.get("type") == "text"]
            if texts:
                return message, texts[-1]
    return None
