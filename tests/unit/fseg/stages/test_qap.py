from __future__ import annotations

import pytest
import torch

from fseg.errors import InvalidClasses, InvalidOption
from fseg.stages.qap import Ask, says_yes
from fseg.stages.tvr import Respond
from tests.unit.fseg.fakes import FakeAnswer, FakeSession, FakeTrace, answer, evidence, words

NO = words("No.")


def ask(given: FakeAnswer, name: str = "cat", stage: Ask | None = None, forced: FakeAnswer | None = None):
    """What is made of one answer to one question."""
    session = FakeSession(lambda _, begin: given if begin is None else forced or words(f"{begin} It is forced."))
    (result,) = (stage or Ask())(session, {name: [name]})
    return result, session


@pytest.mark.parametrize("text", ["yes", "Yes, it contains a cat.", "YES.", '"Yes"', " yes!", "Yes,it contains a cat."])
def test_a_first_word_yes_is_present(text):
    assert says_yes(text)


@pytest.mark.parametrize("text", ["No.", "", "Yesterday", "There is: yes.", "It does, yes", "..."])
def test_anything_else_is_absent(text):
    assert not says_yes(text)


def test_a_yes_names_the_class_and_the_description():
    result, _ = ask(answer("yes", ",", " it", " contains", " a", " cat", ".", " The", " cat", " is", " red", "."))
    assert (result.present, result.flags) == (True, ())
    assert result.answer.pieces("class") == [" cat"]
    assert result.answer.pieces("description") == [" The", " cat", " is", " red", "."]


def test_the_token_before_the_answer_and_the_context_of_the_name_are_named():
    result, _ = ask(answer("yes", ",", " it", " contains", " a", " cat", ".", " The", " cat"))
    assert result.answer.pieces("before answer") == ["<question>"]
    assert result.answer.pieces("context") == ["<question>", "yes", ",", " it", " contains", " a"]


def test_a_no_is_kept_as_it_is():
    result, session = ask(NO)
    assert (result.present, result.text, result.flags) == (False, "No.", ())
    assert len(session.calls) == 1


def test_the_class_span_is_every_piece_of_a_split_name():
    result, _ = ask(answer("yes", ",", " it", " contains", " a", " p", "otted", "plant", ".", " It", " is", " green", "."), "pottedplant")
    assert result.answer.pieces("class") == [" p", "otted", "plant"]


def test_the_class_token_is_the_last_piece_and_not_one_position_off():
    result, _ = ask(answer("yes", ",", " it", " contains", " a", " p", "otted", "plant", ".", " It", " is", " green", "."), "pottedplant")
    # One cell a position: the state at position p points at cell p alone, so the peak says which position was compared.
    positions = list(result.answer.tokens.span("class").positions)
    states = torch.eye(15)
    trace = FakeTrace({"image": {7: states}, "class": {7: states[positions]}})
    responded = Respond("D", {"layers": (7, 7)})(evidence(grid=(3, 5), trace=trace))
    assert int(responded.response.argmax()) == 8  # <question>, then yes , it contains a p otted plant
    assert responded.response.count_nonzero() == 1


def test_a_name_inside_another_word_is_not_the_class():
    result, _ = ask(words("yes, it contains cattle and a cat. It is small."))
    assert result.answer.pieces("class") == [" cat."]
    result, _ = ask(words("yes, it contains cattle. They are large."))
    assert result.flags == ("class-forced",)


def test_a_full_stop_inside_a_name_does_not_end_the_first_sentence():
    result, _ = ask(answer("yes", ",", " it", " contains", " a", " st", ".", " bernard", ".", " It", " is", " big", "."), "st. bernard")
    assert result.flags == ()
    assert result.answer.pieces("class") == [" st", ".", " bernard"]
    assert result.answer.pieces("description") == [" It", " is", " big", "."]


def test_a_full_stop_at_the_end_of_a_name_ends_the_first_sentence_and_is_not_its_token():
    result, _ = ask(answer("yes", ",", " it", " contains", " a", " cat", ".", " It", " is", " red", "."), "cat.")
    assert result.flags == ()
    assert result.answer.pieces("class") == [" cat"]
    assert result.answer.pieces("description") == [" It", " is", " red", "."]


def test_a_name_is_found_whatever_its_case():
    result, _ = ask(words("Yes, it contains a Cat. It sleeps."))
    assert result.answer.pieces("class") == [" Cat."]


def test_only_the_rest_of_the_answer_describes():
    result, _ = ask(words("yes, it contains a cat on a mat. It sleeps. It is red."))
    assert result.answer.pieces("description") == [" It", " sleeps.", " It", " is", " red."]


@pytest.mark.parametrize("text", ["yes, it contains a cat.", "yes, it contains a cat", 'yes, it contains a cat."'])
def test_an_answer_of_one_sentence_has_an_empty_description_and_says_so(text):
    result, _ = ask(words(text))
    assert result.answer.pieces("description") == []
    assert result.flags == ("no-description",)


def test_a_bare_yes_may_stand_before_the_sentence_that_names_the_class():
    result, _ = ask(words("Yes. It contains a cat. It sleeps."))
    assert result.flags == ()
    assert result.answer.pieces("description") == [" It", " sleeps."]


@pytest.mark.parametrize("text", ["yes, it does.", "yes, it contains an animal. The cat is red."])
def test_a_first_sentence_without_the_class_is_written_for_the_model(text):
    result, session = ask(words(text))
    assert session.calls[1]["begin"] == ["yes, it contains a cat."]
    assert session.calls[1]["questions"] == session.calls[0]["questions"]
    assert result.text == "yes, it contains a cat. It is forced."
    assert result.answer.pieces("description") == [" It", " is", " forced."]
    assert result.flags == ("class-forced",)


def test_a_name_that_cannot_be_found_even_so_is_an_error():
    with pytest.raises(InvalidClasses, match='"cat" of class "cat" is not found as a word'):
        ask(words("yes."), forced=words("yes, it contains a c a t."))


def test_all_names_are_asked_in_one_call_and_come_back_in_order():
    session = FakeSession(lambda question, _: words("yes, it contains a couch. It is red.") if "couch" in question else NO)
    results = Ask()(session, {"sofa": ["sofa", "couch"], "dog": ["dog"]})
    assert [(r.name, r.asked_as, r.present) for r in results] == [("sofa", "sofa", False), ("sofa", "couch", True), ("dog", "dog", False)]
    assert len(session.calls) == 1
    assert session.calls[0]["max_new_tokens"] == 128


def test_forced_classes_share_one_more_call():
    session = FakeSession(lambda _, begin: words(f"{begin} It is so.") if begin else words("yes."))
    results = Ask()(session, {"cat": ["cat"], "dog": ["dog"]})
    assert [call["begin"] for call in session.calls] == [None, ["yes, it contains a cat.", "yes, it contains a dog."]]
    assert [r.flags for r in results] == [("class-forced",)] * 2


def test_presence_can_be_assumed():
    result, session = ask(NO, stage=Ask(presence="assume", gate=True))
    assert result.present
    assert result.flags == ("presence-assumed",)
    assert [call["begin"] for call in session.calls] == [["yes, it contains a cat."]]


def test_presence_can_be_left_to_the_gate():
    said = {"cat": words("", margin=0.7), "dog": words("", margin=0.4)}
    session = FakeSession(lambda question, begin: words(begin) if begin else next(said[name] for name in said if name in question))
    cat, dog = Ask(presence="gate", threshold=0.5)(session, {"cat": ["cat"], "dog": ["dog"]})
    assert [call["max_new_tokens"] for call in session.calls] == [0]
    assert (cat.present, cat.margin, cat.text, cat.flags) == (True, 0.7, "yes, it contains a cat.", ("presence-by-gate", "no-description"))
    assert cat.answer.pieces("class") == [" cat."]
    assert (dog.present, dog.margin) == (False, 0.4)


def test_the_gate_compares_yes_with_no_and_its_margin_is_kept():
    result, session = ask(words("", margin=-2.5), stage=Ask(gate=True, threshold=0.5))
    gate = session.calls[0]["gate"]
    assert ((gate.yes, gate.no), gate.threshold, gate.tokens) == ((("yes", "Yes"), ("no", "No")), 0.5, "own")
    assert (result.present, result.margin) == (False, -2.5)


@pytest.mark.parametrize("presence", ["ask", "gate"])
def test_the_gate_counts_the_tokens_that_the_recipe_names(presence):
    _, session = ask(words("", margin=-2.5), stage=Ask(gate=True, presence=presence, gate_tokens="every"))
    assert session.calls[0]["gate"].tokens == "every"


def test_the_first_word_decides_behind_an_open_gate():
    assert not ask(words("No.", margin=1.0), stage=Ask(gate=True))[0].present


def test_the_wording_and_the_article_reach_the_question():
    _, session = ask(NO, "owl", Ask(question="contain", article="auto"))
    assert session.calls[0]["questions"][0].startswith("Does the image contain an owl?")


def test_a_list_of_names_will_do():
    session = FakeSession(lambda *_: NO)
    assert [a.name for a in Ask()(session, ["cat", "dog"])] == ["cat", "dog"]


@pytest.mark.parametrize("names", [{}, {"sofa": []}, {"sofa": [" "]}, "sofa"])
def test_classes_without_a_name_are_refused_before_any_question(names):
    session = FakeSession(lambda *_: NO)
    with pytest.raises(InvalidClasses):
        Ask()(session, names)
    assert session.calls == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("question", "photograph", "takes 'class', 'class-table-2', 'contain', 'photo'"),
        ("article", "the", "takes 'a', 'auto', 'none'"),
        ("template", "vicuna", "takes 'vicuna_v1', 'mistral_instruct', 'llava_v1', 'llava_hf', a text with {question}"),
        ("max_new_tokens", 0, "takes a whole number of at least 1"),
        ("presence", "guess", "takes 'ask', 'assume'"),
        ("gate", "yes", "takes True or False"),
        ("gate_tokens", "all", "takes 'own', 'every'"),
    ],
)
def test_a_wrong_field_says_what_it_takes(field, value, message):
    with pytest.raises(InvalidOption, match=message):
        Ask(**{field: value})


@pytest.mark.parametrize(
    ("wording", "article", "name", "asked_as"),
    [
        (
            "Is there {article}{name}? Say 'yes, it contains {article}{name}.'",
            "auto",
            "elk",
            "Is there an elk? Say 'yes, it contains an elk.'",
        ),
        ('Is "{name}" in {braces}?', "none", "cat", 'Is "cat" in {braces}?'),
        ("Any {article}{name}?", "a", "{article}", "Any a {article}?"),  # a name is put in as it is
    ],
)
def test_a_question_of_ones_own_takes_the_name_and_the_article(wording, article, name, asked_as):
    session = FakeSession(lambda *_: NO)
    Ask(question=wording, article=article)(session, [name])
    assert session.calls[0]["questions"] == [asked_as]


def test_a_question_without_the_name_is_refused():
    with pytest.raises(InvalidOption, match=r"or a text with \{name\} in it"):
        Ask(question="Is there anything?")


TOLD = answer("yes", ",", " it", " contains", " a", " cat", ".", " It", " is", " red", ".", " It", " sleeps", ".")


def test_the_description_may_be_the_second_sentence_alone():
    assert ask(TOLD)[0].answer.pieces("description") == [" It", " is", " red", ".", " It", " sleeps", "."]
    assert ask(TOLD, stage=Ask(description="second"))[0].answer.pieces("description") == [" It", " is", " red", "."]
    assert ask(words("yes, it contains a cat. It is red"), stage=Ask(description="second"))[0].answer.pieces("description")[-1] == " red"


def test_a_full_stop_without_a_space_ends_the_first_sentence_if_asked_to():
    run_on = answer("yes", ",", " a", " cat", ".", "It", " is", " red", ".")
    assert ask(run_on)[0].flags == ("no-description",)
    result, _ = ask(run_on, stage=Ask(full_stop="any"))
    assert result.answer.pieces("description") == ["It", " is", " red", "."]
    assert result.flags == ()
    forced, _ = ask(words("yes."), stage=Ask(full_stop="any", description="second"), forced=run_on)
    assert forced.answer.pieces("description") == ["It", " is", " red", "."]


def test_the_sentence_that_the_question_asks_for_is_drafted():
    _, session = ask(words("yes, it contains a cat. It is red."))
    assert session.calls[0]["drafts"] == ["yes, it contains a cat."]
