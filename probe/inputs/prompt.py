"""Prompts: from a question, chat messages or raw text to the text that the model reads, and where the user's words are in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from transformers import PreTrainedTokenizerBase

from probe.errors import TemplateError
from probe.inputs.processors import Processor, tokenizer_of
from probe.inputs.templates import EXAMPLE, check_text, render
from probe.inputs.text import Words

Messages = Sequence[Mapping[str, object]]
"""Chat messages as Hugging Face's `apply_chat_template` takes them: each with a `role` and a `content`."""

Part = Mapping[str, object]
"""A part of a message's content: `{"type": "image"}`, or `{"type": "text", "text": "What is this?"}`."""

_MARK = "\x02words\x03"  # put in place of the user's words, to find out where a chat template puts them


_ONE = {"image": "an image", "video": "a video"}


@dataclass(frozen=True)
class Marks:
    """What a prompt shows of one kind.

    Attributes:
        kind: "image" or "video".
        count: how many of them the prompt marks.
        token: the token that stands for each; "" if there is none.
        replaced: whether the processor puts as many tokens as the model needs in its place; False: the prompt has them all.
    """

    kind: Literal["image", "video"]
    count: int
    token: str
    replaced: bool = True

    def check(self, prompt: str) -> None:
        """Raise TemplateError unless the prompt marks each of them."""
        if self.count and not self.token:
            raise TemplateError(
                f"{self.count} {self.kind}s were given, and the processor has no token that stands for {_ONE[self.kind]} in a prompt. Encode "
                "text alone."
            )
        tokens = prompt.count(self.token) if self.token else 0
        if tokens != self.count if self.replaced or not self.count else tokens < self.count:
            raise TemplateError(
                f"The prompt has {tokens} {self.kind} token{'' if tokens == 1 else 's'} ({self.token}); {self.kind}s given: {self.count}. "
                f"Give each {self.kind} one token."
            )


def build_prompt(
    processor: Processor,
    text: str | Messages,
    images: Marks,
    videos: Marks,
    *,
    chat: bool = True,
    template: str | None = None,
) -> tuple[str, Words | None]:
    """The prompt as text, with the tokens that the processor looks for, and the user's words in it.

    Args:
        text: the user's words, chat messages, or, with chat=False, the whole prompt.
        template: a template by name or as text; None: the processor's own chat template.

    Raises:
        TemplateError: no template, one that does not fit, another number of tokens than images or videos, or such a token in the user's
            words.
    """
    if not chat:
        if not isinstance(text, str):
            raise TemplateError("chat=False takes the raw prompt as a string, not messages.")
        prompt, words = text, None
    elif template is not None:
        if not isinstance(text, str):
            raise TemplateError("Messages are rendered by the processor's chat template; template= is for a single question.")
        for marks in (images, videos):
            check_text(text, marks.token)
        prompt, start = render(template, text, images.count, images.token, videos.count, videos.token)
        words = Words.at(prompt, text, start)
    else:
        prompt, words = _chat(processor, text, images, videos)
    for marks in (images, videos):
        marks.check(prompt)
    return prompt, words


def image_marks(processor: Processor, count: int, token_id: int | None) -> Marks:
    """The images of a prompt.

    Args:
        token_id: the model's image token.
    """
    return Marks("image", count, image_token(processor, token_id), bool(_placeholder(processor)))


def video_marks(processor: Processor, count: int) -> Marks:
    """The videos of a prompt."""
    return Marks("video", count, str(getattr(processor, "video_token", None) or ""))


def takes_videos(processor: Processor) -> bool:
    """Whether a processor prepares videos, and its prompts say where they are."""
    return getattr(processor, "video_processor", None) is not None and bool(video_marks(processor, 1).token)


def image_token(processor: Processor, token_id: int | None = None) -> str:
    """The text of the token that stands for an image in a prompt; "" if there is none.

    Args:
        token_id: the model's image token, for a processor that names none: its chat template, or the processor, writes that itself.
    """
    return _placeholder(processor) or token_text(tokenizer_of(processor), getattr(processor, "image_token_id", None) or token_id)


def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int | None) -> str:
    """The text of a special token; "" if there is none of this id."""
    return "" if token_id is None else str(tokenizer.convert_ids_to_tokens(token_id) or "")


def _placeholder(processor: Processor) -> str:
    """The token that a processor replaces by as many as an image needs; some hold an `AddedToken`, some write another than they look for."""
    return str(getattr(processor, "image_placeholder_token", None) or getattr(processor, "image_token", None) or "")


def refuse_special_tokens(processor: Processor, text: str) -> None:
    """Refuse a text with special tokens of this processor's tokenizer.

    Raises:
        TemplateError: it holds one, which would end the prompt, begin another one or stand for an image.
    """
    tokenizer = tokenizer_of(processor)
    added = [token.content for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special]
    for token in dict.fromkeys([image_token(processor), *tokenizer.all_special_tokens, *added]):
        if token and token in text:
            raise TemplateError(f"The text holds {token!r}, a special token of this model, which it does not read as words: {text[:80]!r}.")


def _chat(processor: Processor, text: str | Messages, images: Marks, videos: Marks) -> tuple[str, Words | None]:
    """The prompt under the processor's own chat template, and the user's last words in it."""
    if processor.chat_template is None:
        raise TemplateError(f"This checkpoint has no chat template. Name one: template={EXAMPLE!r}, or pass chat=False and a raw prompt.")
    if isinstance(text, str):
        shown = [{"type": marks.kind} for marks in (images, videos) for _ in range(marks.count)]
        text = [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}]
    messages = [_checked(message) for message in (text if isinstance(text, (list, tuple)) else [text])]
    for part, marks in product((part for message in messages for part in message.parts), (images, videos)):
        check_text(str(part.get("text", "")), marks.token)
    prompt = _rendered(processor, messages)
    marked, words = _mark_last_words(messages)
    if not words.strip():
        return prompt, None
    start = _rendered(processor, marked).find(_MARK)
    return prompt, Words.at(prompt, words, start) if start >= 0 else None


@dataclass(frozen=True)
class _Message:
    """A chat message whose content is a list of parts, which every multimodal chat template reads."""

    fields: Mapping[str, object]
    parts: tuple[Part, ...]

    def as_text(self) -> Mapping[str, object]:
        """The message with its content as one text.

        Raises:
            TemplateError: a part is no text.
        """
        others = [part.get("type") for part in self.parts if part.get("type") != "text"]
        if others:
            raise TemplateError(f"The message holds a part of the type {others[0]!r}, and a tokenizer reads text alone. Leave it out.")
        return {**self.fields, "content": "".join(str(part.get("text", "")) for part in self.parts)}


def _checked(message: object) -> _Message:
    """The message, its content as parts.

    Raises:
        TemplateError: it is no message.
    """
    content = message.get("content") if isinstance(message, Mapping) else None
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(message, Mapping) or not isinstance(parts, (list, tuple)) or not all(isinstance(part, Mapping) for part in parts):
        raise TemplateError(
            f"{message!r:.80} is no chat message. Give one text, or messages such as "
            "{'role': 'user', 'content': [{'type': 'image'}, {'type': 'text', 'text': 'What is this?'}]}; encode several prompts one by one."
        )
    return _Message(message, tuple(parts))


def _rendered(processor: Processor, messages: Sequence[_Message]) -> str:
    """The messages under the processor's chat template. Those of tokenizers read a message's content as text, not as parts.

    Raises:
        TemplateError: the template, which is code in a sandbox, fails or was stopped; or parts other than text for a tokenizer.
    """
    try:
        if isinstance(processor, PreTrainedTokenizerBase):
            return str(
                processor.apply_chat_template([message.as_text() for message in messages], tokenize=False, add_generation_prompt=True)
            )
        plain = [{**message.fields, "content": list(message.parts)} for message in messages]
        return str(processor.apply_chat_template(plain, add_generation_prompt=True))
    except TemplateError:
        raise
    except Exception as error:  # a template is the checkpoint's code, which can fail in any way
        raise TemplateError(
            f"The chat template of this checkpoint cannot lay out the messages ({type(error).__name__}: {error}). "
            f"Name another one, such as template={EXAMPLE!r}, or pass chat=False and a raw prompt."
        ) from error


def _mark_last_words(messages: Sequence[_Message]) -> tuple[list[_Message], str]:
    """The messages with a mark in place of the user's last text part, and that text; "" where no user message has one."""
    for number, message in reversed(list(enumerate(messages))):
        if message.fields.get("role") != "user":
            continue
        for index, part in reversed(list(enumerate(message.parts))):
            if part.get("type") == "text":
                parts = (*message.parts[:index], {"type": "text", "text": _MARK}, *message.parts[index + 1 :])
                return [*messages[:number], _Message(message.fields, parts), *messages[number + 1 :]], str(part.get("text", ""))
    return list(messages), ""
