"""Words, sentences and positions, under a real sub-word vocabulary (Mistral-7B's SentencePiece)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from probe.errors import AmbiguousWord, GridMismatch, SpanNotFound
from probe.inputs.text import Words, suffix_ids, token_map
from probe.tokens.layout import Grid, ImageLayout
from probe.tokens.spans import Span, TokenMap
from tests import zoo

IMAGE = 32000


def answered(text: str, *, layout: ImageLayout | None = None, images: int = 4) -> TokenMap:
    """A prompt of a few image tokens and a question, with an answer after it."""
    tokenizer = zoo.tokenizer()
    prompt = "USER: <image>\nIs there a cat? ASSISTANT:"
    ids = tokenizer(prompt.replace("<image>", "<image>" * images))["input_ids"]
    tokens = token_map("llava", tokenizer, IMAGE, ids, [layout], Words("Is there a cat?", 0))
    answer = suffix_ids(tokenizer, prompt, text)
    spans = {**tokens.spans, "answer": Span(tuple(range(len(ids), len(ids) + len(answer))), "answer")}
    return TokenMap((*ids, *answer), tokens.images, tokens.layouts, spans, tokens.special, tokens.decode, "llava")


def pieces(tokens: TokenMap, span: Span) -> list[str]:
    return zoo.tokenizer().convert_ids_to_tokens([tokens.ids[p] for p in span.positions])


def test_a_name_that_splits_into_three_pieces_is_found_whole() -> None:
    tokens = answered("yes, it contains a pottedplant.")
    assert pieces(tokens, tokens.word("pottedplant")) == ["▁p", "otted", "plant"]


def test_a_name_of_two_words_is_found_across_them() -> None:
    tokens = answered("yes, it contains a traffic light.")
    assert pieces(tokens, tokens.word("traffic light")) == ["▁traffic", "▁light"]


def test_a_word_inside_another_is_not_that_word() -> None:
    tokens = answered("cattle, not a cat.")
    assert pieces(tokens, tokens.word("cat")) == ["▁cat"]
    with pytest.raises(
        SpanNotFound, match=r"No word 'tle' in the answer 'cattle, not a cat\.'\. Spans here: prompt, image, image 0, question, answer"
    ):
        tokens.word("tle")


def test_case_is_ignored_and_punctuation_is_no_part_of_a_word() -> None:
    tokens = answered('Yes. "CAT", it says.')
    assert tokens.offsets(tokens.word("cat")) == (6, 9)
    assert tokens.text("answer")[6:9] == "CAT"


def test_a_repeated_word_needs_an_index() -> None:
    tokens = answered("A cat is a cat.")
    with pytest.raises(AmbiguousWord, match=r"'cat' occurs 2 times in the answer \(characters 2-5, 11-14\)\. Pass index=0 to index=1\."):
        tokens.word("cat")
    assert tokens.word("cat", index=0).positions < tokens.word("cat", index=1).positions
    assert tokens.word("cat", index=-1) == tokens.word("cat", index=1)
    with pytest.raises(SpanNotFound, match="occurrence 2 was asked for"):
        tokens.word("cat", index=2)


def test_a_full_stop_inside_a_name_does_not_lose_the_name() -> None:
    tokens = answered("yes, it contains a st. bernard. It sleeps.")
    assert tokens.text(tokens.word("st. bernard")) == "st. bernard"
    assert pieces(tokens, tokens.word("st. bernard"))[:2] == ["▁st", "."]


def test_characters_that_several_bytes_spell_belong_to_all_their_tokens() -> None:
    tokens = answered("a 🐱 here")
    cat = tokens.word("🐱")
    assert pieces(tokens, cat)[-1].startswith("<0x") or pieces(tokens, cat) == ["🐱"]
    assert tokens.text(cat) == "🐱"


def test_accented_words_are_found() -> None:
    tokens = answered("yes, it contains a café.")
    assert tokens.text(tokens.word("café")) == "café"


def test_sentences_are_counted_from_both_ends() -> None:
    tokens = answered("yes, it contains a cat. It is red! Is it")
    assert [tokens.text(tokens.sentence(i)) for i in (0, 1, 2, -1)] == ["yes, it contains a cat.", "It is red!", "Is it", "Is it"]
    with pytest.raises(SpanNotFound, match=r"Sentence 3 was asked for, the answer .* has 3"):
        tokens.sentence(3)


def test_a_sentence_that_is_no_integer_is_refused_of_an_empty_answer_too() -> None:
    for text, count in (("", 0), ("yes.", 1)):
        with pytest.raises(
            SpanNotFound, match=rf"Sentence 'first' was asked for: an integer counts them from 0, .* the answer has {count}\."
        ):
            answered(text).sentence("first")  # type: ignore[arg-type]


def test_a_word_is_looked_for_within_its_sentence() -> None:
    tokens = answered("A dog. A dog again.")
    second = tokens.sentence(1)
    assert set(tokens.word("dog", within=second).positions) <= set(second.positions)


def test_what_follows_a_span_may_be_nothing() -> None:
    tokens = answered("yes, a cat.")
    assert tokens.after(tokens.sentence(0)).positions == ()
    assert tokens.text(tokens.after(tokens.word("yes"))) == ", a cat."


def test_the_question_is_named_without_its_template() -> None:
    tokens = answered("No.")
    assert tokens.text("question") == "Is there a cat?"
    assert tokens.text("image") == ""


@pytest.mark.parametrize("look", [lambda t: t.word("cat"), lambda t: t.find("cat"), lambda t: t.sentence(0), lambda t: t.after(Span((0,)))])
def test_a_prompt_without_an_answer_says_where_else_to_look(look: Any) -> None:
    tokens = answered("No.")
    prompt = replace(tokens, spans={name: span for name, span in tokens.spans.items() if name != "answer"})
    with pytest.raises(
        SpanNotFound, match=r"have no answer yet. Spans here: prompt, .* Pass within= one of them, such as within='question'"
    ):
        look(prompt)
    with pytest.raises(SpanNotFound, match=r"No span 'anser' to look in"):
        tokens.word("cat", within="anser")


def test_an_unknown_span_names_those_there_are() -> None:
    with pytest.raises(
        SpanNotFound, match=r"No span 'word'. Spans here: prompt, image, image 0, question, answer. Name your own with with_spans"
    ):
        answered("No.").span("word")


def test_negative_positions_count_from_the_end() -> None:
    tokens = answered("No.")
    assert tokens.resolve(-1) == (len(tokens) - 1,)
    with pytest.raises(SpanNotFound, match=f"the sequence has {len(tokens)} tokens"):
        tokens.resolve(len(tokens))


def test_positions_of_a_span_run_from_0_to_the_last_token() -> None:
    tokens = answered("No.")
    last = len(tokens) - 1
    with pytest.raises(SpanNotFound, match=rf"The span 'x' has position -1; positions run from 0 to {last}\. Use resolve\(-1\)"):
        tokens.resolve(Span((-1, 3), "x"))
    with pytest.raises(SpanNotFound, match=rf"The span reaches to position {last + 1}, the sequence has {last + 1} tokens"):
        tokens.resolve(Span((0, last + 1)))


def test_the_law_of_layout_is_checked_where_the_image_is_used() -> None:
    tokens = answered("No.", layout=ImageLayout((Grid.whole(2, 3, (10, 10)),)), images=4)
    with pytest.raises(GridMismatch, match="llava lays out 2 x 3 = 6 image tokens for this image, but input_ids has 4"):
        tokens.resolve("image")


def test_an_answer_is_tokenised_in_its_context() -> None:
    tokenizer = zoo.tokenizer()
    after = suffix_ids(tokenizer, "[INST] hi [/INST]", "yes")
    assert tokenizer.convert_ids_to_tokens(list(after)) == ["▁yes"]
    assert suffix_ids(tokenizer, "[INST] hi [/INST]", " yes") == after


def test_a_token_is_predicted_at_the_position_before_it() -> None:
    tokens = answered("yes, it contains a cat.")
    prompt = len(tokens.span("prompt"))
    answer = tokens.predicting("answer")
    assert answer.positions == tuple(range(prompt - 1, len(tokens) - 1))
    assert answer.name == "predicting answer"
    assert tokens.predicting(-1).positions == (len(tokens) - 2,)
    assert tokens.predicting(Span((7, 3))) == Span((6, 2), "predicting")
    assert tokens.predicting(Span(())).positions == ()


def test_nothing_predicts_the_first_token() -> None:
    tokens = answered("No.")
    for first, message in (("prompt", "'prompt' holds position 0"), (0, "'0' holds"), (Span((3, 0)), "Position 0 is among them")):
        with pytest.raises(SpanNotFound, match=f"{message}.*which no position predicts"):
            tokens.predicting(first)
    with pytest.raises(SpanNotFound, match="No span 'word'"):
        tokens.predicting("word")
