"""Section 3.2, the question-answer pipeline, with a plain LlavaForConditionalGeneration under eager attention (Eq. 1 and 2)."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.reference.response import Floats

QUESTION = (
    "Does the image have the class of a {c}? Answer yes or no to this question. If no, just say 'No.' If yes, the answer has to be "
    "two sentences, the first sentence is 'yes, it contains a {c}.' The second sentence is to describe {c}."
)
FIRST_SENTENCE = " yes, it contains a {c}."
MAX_NEW_TOKENS = 128  # [open]
FULL_STOP = re.compile(r"\.(?=\s|$)")  # one within a name, as in "st. bernard", is no end [open]


@dataclass(frozen=True)
class Llava:
    """A model of Hugging Face and its processor."""

    model: Any
    processor: Any


@dataclass(frozen=True)
class Answer:
    """T_output: the text of an answer, and its tokens without the end-of-sequence token."""

    prompt: str
    ids: list[int]
    text: str


@dataclass(frozen=True)
class Outputs:
    """What Eq. 1 returns beside the text, of one forward over the question and its answer, and the vision tower's features."""

    image_states: Floats  # F(v): (layer, cell, feature), the embeddings being layer 0
    answer_states: Floats  # F(t): (layer, token, feature)
    attention: Floats  # A from the answer's tokens to the image's, the mean over heads [open]: (layer, token, cell)
    vision: Floats  # F_v: (cell, feature)


@dataclass(frozen=True)
class Sentences:
    """Eq. 2, T_output = (S_0, S_1), as indices of tokens of the answer: the class token t_c of S_0, and all tokens of S_1."""

    class_token: int
    description: list[int]


def stretched(llava: Llava, image: Image.Image) -> Image.Image:
    """Section 4.2: the image resized to the input of the vision tower, without padding or cropping; bicubic [open]."""
    side = llava.model.config.vision_config.image_size
    return image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


def encoded(llava: Llava, image: Image.Image, text: str) -> dict[str, Any]:
    """The inputs of Hugging Face's forward for a prompt, or for a prompt and the beginning of its answer."""
    inputs = llava.processor(text=text, images=stretched(llava, image), return_tensors="pt", do_resize=False, do_center_crop=False)
    return {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")}


def prompt_of(llava: Llava, question: str) -> str:
    """A question about the image in the checkpoint's own chat template."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return str(llava.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))


def generated(llava: Llava, image: Image.Image, text: str) -> list[int]:
    """The tokens that the model goes on with, greedily, without the end-of-sequence token."""
    inputs = encoded(llava, image, text)
    ids = llava.model.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)[0, inputs["input_ids"].shape[1] :].tolist()
    return [token for token in ids if token != llava.model.generation_config.eos_token_id]


def eq1_answer(llava: Llava, image: Image.Image, name: str) -> Answer:
    """Eq. 1, T_output: what the model answers when it is asked about a class.

    A yes whose S_0 does not name the class begins anew with the S_0 that the question asks for, and the model only describes [open].
    """
    prompt = prompt_of(llava, QUESTION.format(c=name))
    ids = generated(llava, image, prompt)
    text = llava.processor.tokenizer.decode(ids)
    if is_yes(text) and name_in_first_sentence(text, name) is None:
        forced = prompt + FIRST_SENTENCE.format(c=name)
        before = len(encoded(llava, image, prompt)["input_ids"][0])
        ids = encoded(llava, image, forced)["input_ids"][0, before:].tolist() + generated(llava, image, forced)
        text = llava.processor.tokenizer.decode(ids)
    return Answer(prompt, ids, text)


def is_yes(text: str) -> bool:
    """Section 3.2: the class is in the image if t_0 of S_0 is "yes"."""
    words = text.split()
    return bool(words) and words[0].strip(string.punctuation).casefold() == "yes"


def name_in_first_sentence(text: str, name: str) -> re.Match[str] | None:
    """Where S_0 writes the class's name, as whole words without a full stop. A "Yes." of its own is no sentence yet [open]."""
    found = re.search(rf"(?<!\w){re.escape(name.rstrip('.'))}(?!\w)", text, re.IGNORECASE)
    opening = re.match(r"\W*yes\W*", text, re.IGNORECASE)
    if found is None or FULL_STOP.search(text, opening.end() if opening else 0, found.start()):
        return None
    return found


def eq2_sentences(llava: Llava, answer: Answer, name: str) -> Sentences:
    """Eq. 2: S_0 ends with the first full stop behind the class's name, and S_1 is all that follows [open].

    The class token t_c is the last of those that write the name [open].
    """
    found = name_in_first_sentence(answer.text, name)
    assert found is not None
    stop = FULL_STOP.search(answer.text, found.end())
    rest = answer.text[stop.end() :] if stop else ""
    second = len(answer.text) - len(rest.lstrip())
    decode = llava.processor.tokenizer.decode
    ends = [len(decode(answer.ids[: count + 1])) for count in range(len(answer.ids))]
    class_token = max(token for token, start in enumerate([0, *ends[:-1]]) if start < found.end())
    return Sentences(class_token, [token for token, end in enumerate(ends) if end > second])


@torch.no_grad()
def eq1_outputs(llava: Llava, image: Image.Image, answer: Answer) -> Outputs:
    """Eq. 1, F and A: all hidden states and attention maps of one forward over the question and the answer."""
    inputs = encoded(llava, image, answer.prompt)
    before = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([answer.ids])], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    output = llava.model(**inputs, output_hidden_states=True, output_attentions=True)
    tower = llava.model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
    is_image = inputs["input_ids"][0] == llava.model.config.image_token_id
    states = torch.stack(output.hidden_states)[:, 0]
    attention = torch.stack(output.attentions)[:, 0].mean(dim=1)
    return Outputs(
        image_states=doubles(states[:, is_image]),
        answer_states=doubles(states[:, before:]),
        attention=doubles(attention[:, before:][:, :, is_image]),
        vision=doubles(tower.hidden_states[-2][0, 1:]),  # the state that the projector gets, without the class token
    )


def doubles(values: torch.Tensor) -> Floats:
    """In double precision, so that the equations add no error of their own."""
    return np.asarray(values.double().numpy())
