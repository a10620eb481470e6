"""Question-Answer Pipeline (paper, section 3.2): which classes are in the image, and the tokens of the answer that name them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attrs import Attribute, field, frozen

import probe
from fseg.calls import Steps, ask, complete
from fseg.checks import check_bool, check_choice, check_int, check_number, check_text, checked, shown
from fseg.errors import InvalidClasses, InvalidOption
from fseg.vocabulary.classes import check_classes
from fseg.vocabulary.questions import NAME, QUESTIONS, Article, affirmation, question
from probe.inputs.templates import TEMPLATES
from probe.sessions.gate.choice import GATE_TOKENS, GateTokens
from probe.tokens.spans import Span

ARTICLES = ("a", "auto", "none")
PRESENCES = ("ask", "assume", "gate")
DESCRIPTIONS = ("all", "second")
FULL_STOPS = ("spaced", "any")


_FIRST_WORD = re.compile(r"\W*([^\W_]+)")
_OPENING = re.compile(r"\W*[^\W_]+[\s.,!]*")
_ANY_END = r"[.!?]+[\"'”’)]*"
_SENTENCE_END = re.compile(_ANY_END + r"(?=\s|$)")
_ENDS = {"spaced": _SENTENCE_END, "any": re.compile(_ANY_END)}


def says_yes(text: str) -> bool:
    """Whether the first word of an answer, casefolded and without punctuation, is "yes"."""
    first = _FIRST_WORD.match(text)
    return first is not None and first[1].casefold() == "yes"


def sentences(text: str, at: tuple[int, int], description: str = "all", full_stop: str = "spaced") -> tuple[int, int] | None:
    """The characters (start, stop) of S_1 of Eq. 2 in an answer, given those of the class name.

    S_0 ends at the first sentence-ending punctuation after the name, so a full stop within a name ("st. bernard") does not end it; S_1 is
    the rest. A bare "Yes." before the sentence that names the class belongs to S_0.

    Args:
        description, full_stop: see `Ask`.

    Returns:
        None if a whole sentence precedes the name: S_0 then does not name the class. Two equal numbers if nothing follows S_0.
    """
    opening = _OPENING.match(text)
    if _SENTENCE_END.search(text, opening.end() if opening else 0, at[0]):
        return None
    end = _ENDS[full_stop].search(text, at[1])
    if end is None or not re.search(r"\w", text[end.end() :]):
        return len(text), len(text)
    start = len(text) - len(text[end.end() :].lstrip())
    last = _SENTENCE_END.search(text, start) if description == "second" else None
    return start, last.end() if last is not None else len(text)


def name_spans(answer: probe.Answer, name: str, description: str = "all", full_stop: str = "spaced") -> probe.Answer | None:
    """The answer with spans for the fusions.

    "class" are the tokens of the name, "description" those of S_1 (possibly none); "before class" and "before description" are the tokens that
    predict these, "before answer" is the last token of the prompt, which predicts the answer's first. "context" is the text between the image
    and the name, without the name's own tokens.

    Args:
        description, full_stop: see `Ask`.

    Returns:
        None if S_0 does not name the class.
    """
    tokens = answer.tokens
    text = tokens.text("answer")
    # In "it contains a cat." the full stop ends S_0, even if the class was given as "cat.": it is no token of the name.
    occurrences = tokens.find(name.rstrip(".!? ") or name, within="answer")
    described = sentences(text, occurrences[0], description, full_stop) if occurrences else None
    if described is None:
        return None
    name_tokens, second = tokens.characters(*occurrences[0], within="answer"), tokens.characters(*described, within="answer")
    pieces = {tokens.ids[position] for position in name_tokens.positions}
    before_name = range(max(tokens.shown, default=-1) + 1, name_tokens.positions[0])
    return answer.with_spans(
        {
            "class": name_tokens,
            "description": second,
            "before description": tokens.predicting(second),
            "before answer": Span(tokens.predicting("answer").positions[:1]),
            "before class": tokens.predicting(name_tokens),
            "context": Span(tuple(position for position in before_name if tokens.ids[position] not in pieces)),
        }
    )


def asked(session: probe.Session, question: str) -> probe.Answer:
    """A question without an answer; "before answer" is the last token of its prompt, as in `name_spans`."""
    (answer,) = session.ask([question], max_new_tokens=0)
    return answer.with_spans({"before answer": Span(answer.tokens.span("prompt").positions[-1:])})


@dataclass(frozen=True)
class ClassAnswer:
    """The model's answer about one name of one class.

    Attributes:
        name: the class.
        asked_as: the synonym in the question.
        present: the answer is yes.
        answer: for a class that is present, with the spans "class" and "description"; for an absent one, as it was generated.
        text: the answer's text.
        margin: logit of yes minus logit of no at the first answer position; None without a gate.
        flags: "class-forced" (S_0 did not name the class and was teacher-forced), "presence-assumed", "presence-by-gate",
            "no-description" (no S_1).
    """

    name: str
    asked_as: str
    present: bool
    answer: probe.Answer
    text: str
    margin: float | None
    flags: tuple[str, ...] = ()


def _check_template(_: object, field: Attribute[str | None], template: str | None) -> None:
    if template is None:
        return
    check_text(f"ask.{field.name}", template)
    if template not in TEMPLATES and "{question}" not in template:
        raise InvalidOption(
            f"ask.template={shown(template)}: takes {', '.join(map(repr, TEMPLATES))}, a text with {{question}} and <image> in it, "
            "or nothing for the processor's own."
        )


def _check_question(_: object, field: Attribute[str], wording: str) -> None:
    check_text(f"ask.{field.name}", wording)
    if wording not in QUESTIONS and NAME not in wording:
        raise InvalidOption(
            f"ask.{field.name}={shown(wording)}: takes {', '.join(map(repr, QUESTIONS))}, or a text with {NAME} in it, and {{article}} before it "
            "if you like."
        )


@frozen
class Ask:
    """The ask stage (QAP).

    Attributes:
        question: a key of `fseg.vocabulary.questions.QUESTIONS` (Table 2), or a text with `{name}` and, if you like, `{article}` in it.
        article: before the class name: "a", "auto" ("an" before a vowel) or "none".
        template: the chat template, by name or as text that contains `{question}` and `<image>`; None for the processor's own.
        max_new_tokens: the maximum length of an answer.
        gate: generate only where the logit of yes exceeds that of no by more than `threshold`; the generated first word still decides.
        gate_tokens: what the gate counts: the "own" first tokens of "yes", "Yes", "no" and "No", of which the likeliest stands for its side;
            or "every" token that begins a yes or a no, in capitals and behind a quotation mark too, as a sum of probabilities.
        threshold: of the gate, in logits.
        presence: "ask" the model; "assume" that every class is in the image and have the model describe it; or "gate": the gate alone
            decides, nothing is generated (`max_new_tokens` is unused), and S_0 is teacher-forced, without a description.
        description: what S_1 is: "all" that follows S_0, or the "second" sentence alone.
        full_stop: which one after the name ends S_0: a "spaced" one, before white space or the end; or "any", as in "a plant.It is green".

    >>> Ask(question="photo", gate=True).threshold
    0.0
    """

    question: str = field(default="class", validator=_check_question)
    article: Article = field(default="a", validator=checked(check_choice, ARTICLES))
    template: str | None = field(default=None, validator=_check_template)
    max_new_tokens: int = field(default=128, validator=checked(check_int, at_least=1))
    gate: bool = field(default=False, validator=checked(check_bool))
    gate_tokens: GateTokens = field(default="own", validator=checked(check_choice, GATE_TOKENS))
    threshold: float = field(default=0.0, validator=checked(check_number))
    presence: str = field(default="ask", validator=checked(check_choice, PRESENCES))
    description: str = field(default="all", validator=checked(check_choice, DESCRIPTIONS))
    full_stop: str = field(default="spaced", validator=checked(check_choice, FULL_STOPS))

    def __call__(self, session: probe.Session, classes: Sequence[str] | Mapping[str, Sequence[str]]) -> list[ClassAnswer]:
        """Ask about every name of every class, in one batch of questions.

        Args:
            session: one image, opened.
            classes: the names, or for each class the names that it is asked about by.

        Returns:
            one entry for each name, in order.

        Raises:
            InvalidClasses: no class, one that appears twice, or one without a name.
        """
        return complete(self.steps(session, classes))

    def steps(self, session: probe.Session, classes: Sequence[str] | Mapping[str, Sequence[str]]) -> Steps[list[ClassAnswer]]:
        """The same as work on one image, whose calls may run with those of others: see `fseg.calls`."""
        names = [(name, synonym) for name, synonyms in check_classes(classes).items() for synonym in synonyms]
        choice = probe.Choice(yes=("yes", "Yes"), no=("no", "No"), threshold=self.threshold, tokens=self.gate_tokens)
        if self.presence == "assume":
            described = yield from self._described(session, names)
            return [_present(*pair, answer, None, "presence-assumed") for pair, answer in zip(names, described, strict=True)]
        if self.presence == "gate":
            return (yield from self._by_gate(session, names, choice))
        return (yield from self._by_answer(session, names, choice if self.gate else None))

    def _by_answer(self, session: probe.Session, names: Sequence[tuple[str, str]], gate: probe.Choice | None) -> Steps[list[ClassAnswer]]:
        """A class is present if its answer's first word is yes. If S_0 does not name the class, S_0 is forced and S_1 generated again."""
        drafts = self._affirmations(names)
        answers = yield from ask(session, self._questions(names), max_new_tokens=self.max_new_tokens, gate=gate, drafts=drafts)
        spanned = {i: self._spans(answer, names[i][1]) for i, answer in enumerate(answers) if says_yes(answer.text)}
        unnamed = [i for i, answer in spanned.items() if answer is None]
        described = yield from self._described(session, [names[i] for i in unnamed])
        forced = dict(zip(unnamed, described, strict=True))
        result = []
        for i, (pair, answer) in enumerate(zip(names, answers, strict=True)):
            if i in forced:
                result.append(_present(*pair, forced[i], answer.margin, "class-forced"))
            elif (yes := spanned.get(i)) is not None:
                result.append(_present(*pair, yes, answer.margin))
            else:
                result.append(_absent(*pair, answer))
        return result

    def _by_gate(self, session: probe.Session, names: Sequence[tuple[str, str]], gate: probe.Choice) -> Steps[list[ClassAnswer]]:
        """A class is present if its margin exceeds the threshold. Each question takes one forward; nothing is generated."""
        scored = yield from ask(session, self._questions(names), max_new_tokens=0, gate=gate)
        passing = [i for i, answer in enumerate(scored) if answer.margin is not None and answer.margin > gate.threshold]
        passing_names = [names[i] for i in passing]
        written = session.answer(self._questions(passing_names), self._affirmations(passing_names))
        yes = dict(zip(passing, self._with_spans(passing_names, written), strict=True))
        return [
            _present(*pair, yes[i], answer.margin, "presence-by-gate") if i in yes else _absent(*pair, answer)
            for i, (pair, answer) in enumerate(zip(names, scored, strict=True))
        ]

    def _described(self, session: probe.Session, names: Sequence[tuple[str, str]]) -> Steps[list[probe.Answer]]:
        """Answers that begin with the S_0 that the question asks for, S_1 generated, with named spans."""
        if not names:
            return []
        questions = self._questions(names)
        answers = yield from ask(session, questions, max_new_tokens=self.max_new_tokens, begin=self._affirmations(names))
        return self._with_spans(names, answers)

    def _questions(self, names: Sequence[tuple[str, str]]) -> list[str]:
        return [question(synonym, self.question, self.article) for _, synonym in names]

    def _affirmations(self, names: Sequence[tuple[str, str]]) -> list[str]:
        return [affirmation(synonym, self.article) for _, synonym in names]

    def _spans(self, answer: probe.Answer, name: str) -> probe.Answer | None:
        return name_spans(answer, name, self.description, self.full_stop)

    def _with_spans(self, names: Sequence[tuple[str, str]], answers: Sequence[probe.Answer]) -> list[probe.Answer]:
        """Answers that name their classes, with the spans "class" and "description"."""
        result = []
        for (name, synonym), answer in zip(names, answers, strict=True):
            spanned = self._spans(answer, synonym)
            if spanned is None:
                raise InvalidClasses(
                    f'The name "{synonym}" of class "{name}" is not found as a word in the answer that was written for it, '
                    f"{answer.text!r}. Ask about the class by a name of letters and digits."
                )
            result.append(spanned)
        return result


def _present(name: str, asked_as: str, answer: probe.Answer, margin: float | None, *flags: str) -> ClassAnswer:
    described = len(answer.tokens.span("description")) > 0
    return ClassAnswer(name, asked_as, True, answer, answer.text, margin, flags if described else (*flags, "no-description"))


def _absent(name: str, asked_as: str, answer: probe.Answer) -> ClassAnswer:
    return ClassAnswer(name, asked_as, False, answer, answer.text, answer.margin)
