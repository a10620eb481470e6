"""Question-Answer Pipeline (paper, section 3.2): which classes are in the image, and the words that lead back to where they are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import probe
from fseg.checks import flag, number, one_of, shown, text, whole
from fseg.errors import InvalidClasses, InvalidOption
from fseg.vocabulary.classes import check_classes
from fseg.vocabulary.questions import QUESTIONS, Article, affirmation, question

ARTICLES = ("a", "auto", "none")
PRESENCES = ("ask", "assume", "gate")
TEMPLATES = ("vicuna_v1", "mistral_instruct")

_FIRST_WORD = re.compile(r"\W*([^\W_]+)")
_OPENING = re.compile(r"\W*[^\W_]+[\s.,!]*")
_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)]*(?=\s|$)")


def says_yes(text: str) -> bool:
    """Whether the first word of an answer, casefolded and without punctuation, is "yes"."""
    first = _FIRST_WORD.match(text)
    return first is not None and first[1].casefold() == "yes"


def sentences(text: str, at: tuple[int, int]) -> tuple[int, int] | None:
    """Where S_1 of Eq. 2 lies in an answer, as characters (start, stop), given where the class name lies.

    S_0 ends with the first sentence-final mark after the name, so a full stop within a name ("st. bernard") does not end it; S_1 is the
    rest. A bare "Yes." before the sentence that names the class belongs to S_0.

    Returns:
        None where a whole sentence comes before the name: S_0 then does not name the class. Two equal numbers where nothing follows S_0.
    """
    opening = _OPENING.match(text)
    if _SENTENCE_END.search(text, opening.end() if opening else 0, at[0]):
        return None
    end = _SENTENCE_END.search(text, at[1])
    if end is None or not re.search(r"\w", text[end.end() :]):
        return len(text), len(text)
    return end.end() + len(text[end.end() :]) - len(text[end.end() :].lstrip()), len(text)


def name_spans(answer: probe.Answer, name: str) -> probe.Answer | None:
    """The answer with its spans "class", the tokens of the name, and "description", the tokens of S_1 (perhaps none).

    Returns:
        None where S_0 does not name the class.
    """
    tokens = answer.tokens
    text = tokens.text("answer")
    found = tokens.find(name, within="answer")
    description = sentences(text, found[0]) if found else None
    if description is None:
        return None
    return answer.with_spans(
        {
            "class": tokens.characters(*found[0], within="answer"),
            "description": tokens.characters(*description, within="answer"),
        }
    )


@dataclass(frozen=True)
class ClassAnswer:
    """What the model said about one name of one class.

    Attributes:
        name: the class.
        asked_as: the synonym in the question.
        present: it said yes.
        answer: of a class that is present, with the spans "class" and "description" named; of an absent one, as it was given.
        text: the answer's text.
        margin: logit of yes minus logit of no at the first answer position; None without a gate.
        flags: "class-forced" (S_0 did not name the class and was written for the model), "presence-assumed", "presence-by-gate",
            "no-description" (no S_1).
    """

    name: str
    asked_as: str
    present: bool
    answer: probe.Answer
    text: str
    margin: float | None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ask:
    """The first stage.

    Attributes:
        question: a wording of `fseg.vocabulary.questions.QUESTIONS` (Table 2).
        article: before the class name: "a", "auto" ("an" before a vowel) or "none".
        template: the chat template, by name or as text with `{question}` and `<image>` in it; None for the processor's own.
        max_new_tokens: longest answer.
        gate: generate only where the logit of yes exceeds that of no by more than `threshold`; the generated first word still decides.
        threshold: of the gate, in logits.
        presence: "ask" the model; "assume" that every class is in the image and have it describe each; or "gate", the gate alone decides,
            nothing is generated (`max_new_tokens` says nothing), and S_0 is written behind the question, without a description.
    """

    question: str = "class"
    article: Article = "a"
    template: str | None = None
    max_new_tokens: int = 128
    gate: bool = False
    threshold: float = 0.0
    presence: str = "ask"

    def __post_init__(self) -> None:
        one_of("ask.question", self.question, tuple(QUESTIONS))
        one_of("ask.article", self.article, ARTICLES)
        whole("ask.max_new_tokens", self.max_new_tokens, at_least=1)
        flag("ask.gate", self.gate)
        number("ask.threshold", self.threshold)
        one_of("ask.presence", self.presence, PRESENCES)
        if self.template is None:
            return
        text("ask.template", self.template)
        if self.template not in TEMPLATES and "{question}" not in self.template:
            raise InvalidOption(
                f"ask.template={shown(self.template)}: takes {', '.join(map(repr, TEMPLATES))}, a text with {{question}} and <image> in it, "
                "or nothing for the processor's own."
            )

    def __call__(self, session: probe.Session, classes: Sequence[str] | Mapping[str, Sequence[str]]) -> list[ClassAnswer]:
        """Ask about every name of every class, all in one go.

        Args:
            session: one image, opened.
            classes: the names, or for each class the names that it is asked about by.

        Returns:
            one entry for each name, in order.

        Raises:
            InvalidClasses: no class, one that appears twice, or one without a name.
        """
        names = [(name, synonym) for name, synonyms in check_classes(classes).items() for synonym in synonyms]
        if self.presence == "assume":
            assumed = self._affirmed(session, names)
            return [_present(*pair, answer, None, "presence-assumed") for pair, answer in zip(names, assumed, strict=True)]
        gate = probe.Choice(yes=("yes", "Yes"), no=("no", "No"), threshold=self.threshold)
        if self.presence == "gate":
            return self._by_gate(session, names, gate)
        answers = session.ask(
            [self._question(synonym) for _, synonym in names], max_new_tokens=self.max_new_tokens, gate=gate if self.gate else None
        )
        silent = [place for place, answer in enumerate(answers) if says_yes(answer.text) and name_spans(answer, names[place][1]) is None]
        forced = dict(zip(silent, self._affirmed(session, [names[place] for place in silent]), strict=True))
        result = []
        for place, ((name, synonym), answer) in enumerate(zip(names, answers, strict=True)):
            if place in forced:
                result.append(_present(name, synonym, forced[place], answer.margin, "class-forced"))
            elif says_yes(answer.text) and (spanned := name_spans(answer, synonym)) is not None:
                result.append(_present(name, synonym, spanned, answer.margin))
            else:
                result.append(ClassAnswer(name, synonym, False, answer, answer.text, answer.margin))
        return result

    def _question(self, name: str) -> str:
        return question(name, self.question, self.article)

    def _by_gate(self, session: probe.Session, names: Sequence[tuple[str, str]], gate: probe.Choice) -> list[ClassAnswer]:
        """One forward of each question, none of an answer."""
        scored = session.ask([self._question(synonym) for _, synonym in names], max_new_tokens=0, gate=gate)
        passing = [place for place, answer in enumerate(scored) if answer.margin is not None and answer.margin > gate.threshold]
        said = [names[place][1] for place in passing]
        written = session.answer([self._question(synonym) for synonym in said], [affirmation(synonym, self.article) for synonym in said])
        yes = dict(zip(passing, self._spanned([names[place] for place in passing], written), strict=True))
        return [
            _present(name, synonym, yes[place], answer.margin, "presence-by-gate")
            if place in yes
            else ClassAnswer(name, synonym, False, answer, answer.text, answer.margin)
            for place, ((name, synonym), answer) in enumerate(zip(names, scored, strict=True))
        ]

    def _affirmed(self, session: probe.Session, names: Sequence[tuple[str, str]]) -> list[probe.Answer]:
        """The answers that begin with S_0 as the question asks for it, their spans named."""
        if not names:
            return []
        begin = [affirmation(synonym, self.article) for _, synonym in names]
        return self._spanned(
            names, session.ask([self._question(synonym) for _, synonym in names], max_new_tokens=self.max_new_tokens, begin=begin)
        )

    @staticmethod
    def _spanned(names: Sequence[tuple[str, str]], answers: Sequence[probe.Answer]) -> list[probe.Answer]:
        """Answers that name their classes, the spans named."""
        spanned = []
        for (name, synonym), answer in zip(names, answers, strict=True):
            found = name_spans(answer, synonym)
            if found is None:
                raise InvalidClasses(
                    f'The name "{synonym}" of class "{name}" is not found as a word in the answer that was written for it, '
                    f"{answer.text!r}. Ask about the class by a name of letters and digits."
                )
            spanned.append(found)
        return spanned


def _present(name: str, asked_as: str, answer: probe.Answer, margin: float | None, *flags: str) -> ClassAnswer:
    described = len(answer.tokens.span("description")) > 0
    return ClassAnswer(name, asked_as, True, answer, answer.text, margin, flags if described else (*flags, "no-description"))
