"""What is asked and answered in training, in tokens."""

from __future__ import annotations

import numpy as np

from fseg.glyphs import CLASSES, llava_folder
from fseg.glyphs.training.text import AFTER, NO, answer, prompt, tokenizer, turn
from fseg.vocabulary.questions import QUESTIONS, question
from fseg.worlds.training.text import LLAVA_TEMPLATE

RED_CAT = np.array([2, 250, 10, 10, 0, 0, 0, 0.2, 0.1, 0.9, 0.5, 0.1], dtype=np.float32)


def test_the_answer_is_the_affirmation_and_a_description() -> None:
    assert answer("cat", RED_CAT) == " yes, it contains a cat. The cat is large and red, at the bottom left."
    assert answer("cat", None) == " No."


def test_some_class_names_are_split_and_some_are_not() -> None:
    pieces = {name: len(tokenizer().tokenize(" " + name)) for name in CLASSES}
    assert pieces["cat"] == 1
    assert pieces["umbrella"] > 1
    assert pieces["hot cup"] > 1


def test_the_class_token_is_the_last_piece_of_a_split_name() -> None:
    said = turn(question("umbrella"), "umbrella", answer("umbrella", RED_CAT))
    pieces = tokenizer().tokenize(" umbrella")
    assert [tokenizer().convert_ids_to_tokens(said.ids[word]) for word in said.words] == [pieces[-1], pieces[-1]]


def test_a_no_has_one_word_and_no_second_sentence() -> None:
    said = turn(question("cow"), "cow", NO)
    assert len(said.words) == 1
    assert tokenizer().decode(said.ids[said.start :]) == " No.</s>"
    assert said.second == len(said.ids) - 1


def test_the_second_sentence_starts_at_the() -> None:
    said = turn(question("cat"), "cat", answer("cat", RED_CAT))
    assert tokenizer().decode(said.ids[said.second :]).startswith(" The cat is")


def test_every_wording_fits_the_training_length() -> None:
    from fseg.glyphs.training.turns import LENGTH

    longest = max(len(turn(question(name, wording), name, answer(name, RED_CAT)).ids) for name in CLASSES for wording in QUESTIONS)
    assert longest <= LENGTH + 12  # a few of the longest descriptions lose their end, never their first sentence


def test_the_chat_template_writes_the_prompt_of_training() -> None:
    from transformers import AutoTokenizer

    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "find the cat"}]}]
    packaged = AutoTokenizer.from_pretrained(llava_folder())
    written = packaged.apply_chat_template(chat, chat_template=LLAVA_TEMPLATE, add_generation_prompt=True, tokenize=False)
    assert written == prompt("find the cat")
    assert written.endswith(AFTER)


def test_the_packaged_tokenizer_is_the_one_that_is_trained_here() -> None:
    from transformers import AutoTokenizer

    packaged = AutoTokenizer.from_pretrained(llava_folder())
    words = prompt(question("desk telephone")) + answer("desk telephone", RED_CAT)
    assert packaged(words)["input_ids"] == tokenizer()(words)["input_ids"]
