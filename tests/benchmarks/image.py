"""A whole image: the method of `fseg-llava-1.5` through the Segmenter, against one generate() with eager attentions a class."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import wraps
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from attrs import evolve, frozen
from torch import Tensor

import fseg
import probe
from fseg.calls import Steps, ask
from fseg.fusion_methods.attention import attention_map, select_rows
from fseg.pipeline import Segmenter
from fseg.recipe import get_recipe
from fseg.stages.qap import Ask, ClassAnswer
from fseg.vocabulary.questions import question
from probe.tokens.spans import Span
from tests.benchmarks.models import Size, opened, picture
from tests.benchmarks.questions import NAMES, forced_words, given_length
from tests.benchmarks.timing import seconds

PRESENT, ABSENT = 40, 3  # tokens of an answer of yes and of one of no
WORD, DESCRIPTION = 6, range(8, 39)  # where in an answer the class name and the second sentence are taken to be
TOLERANCE = {"embedded": 2e-5, "mid": 2e-5, "full": 1e-2}  # max abs: the same sums in another order, float32 and bfloat16


@frozen
class Blind(Ask):
    """Random weights say neither yes nor no: the classes with the largest margins count as present, and positions stand for the words."""

    def steps(self, session: probe.Session, classes: Sequence[str] | Mapping[str, Sequence[str]]) -> Steps[list[ClassAnswer]]:
        gate = probe.Choice(yes=("yes", "Yes"), no=("no", "No"), threshold=self.threshold)
        questions = [question(name, self.question, self.article) for name in classes]
        answers = yield from ask(session, questions, max_new_tokens=PRESENT, gate=gate)
        return [self._answered(name, answer) for name, answer in zip(classes, answers, strict=True)]

    def _answered(self, name: str, answer: probe.Answer) -> ClassAnswer:
        present = answer.margin is not None and answer.margin > self.threshold
        if present:
            start = answer.prompt_length
            spans = {"class": Span((start + WORD,)), "description": Span(tuple(start + i for i in DESCRIPTION))}
            answer = answer.with_spans(spans)
        return ClassAnswer(name, name, present, answer, answer.text, answer.margin)


def measure(size: Size, classes: int = 20, present: int = 2, repeats: int = 3) -> list[dict[str, object]]:
    """20 classes, 2 of them present. SAM, which costs either way the same, is timed apart."""
    model, shown, names = opened(size), picture(), NAMES[:classes]
    segmenter, chosen = _with_present(size, names, present)
    recipe = segmenter.recipe
    classes_by_name = {name: [name] for name in names}
    made: dict[str, Any] = {}

    def ours() -> None:
        pictures = model.prepare(shown)
        with model.open(pictures, keep=segmenter.reads, template=recipe.ask.template) as session:
            evidence = segmenter.evidence(session, classes_by_name)
        made["session"] = {e.name: e for e in evidence if e.present}

    def theirs() -> None:
        maps = {name: _plainly(model, recipe, name, name in chosen, shown) for name in names}
        made["plain"] = {name: found for name, found in maps.items() if found}

    with given_length(model), forced_words(model, size):
        took = seconds({"session": ours, "plain": theirs}, repeats, warm_up=int(repeats > 1))
    assert list(made["session"]) == list(made["plain"]) == chosen
    difference = max(
        float((getattr(made["session"][name], map_name).flatten() - values).abs().max())
        for name, maps in made["plain"].items()
        for map_name, values in maps.items()
    )
    assert difference <= TOLERANCE[size], f"The maps differ by {difference}."
    took |= seconds({"sam": lambda: segmenter.segment(shown, tuple(names), list(made["session"].values()))}, repeats)
    return [
        {
            "size": size,
            "classes": classes,
            "present": present,
            "one generate() a class, s": took["plain"],
            "Segmenter, s": took["session"],
            "ratio": took["plain"] / took["session"],
            "maps differ by": difference,
            "the embedded SAM, apart, s": took["sam"],
        }
    ]


def _with_present(size: Size, names: Sequence[str], present: int) -> tuple[Segmenter, list[str]]:
    """A segmenter to which so many of these classes are present, and which."""
    model, base = opened(size), get_recipe("glyphs" if size == "embedded" else "fseg-llava-1.5-vicuna-7b")
    with model.open(picture(), template=base.ask.template) as session:
        gate = probe.Choice(yes=("yes", "Yes"), no=("no", "No"))
        asked = session.ask([question(name, base.ask.question, base.ask.article) for name in names], max_new_tokens=0, gate=gate)
    margins = sorted((answer.margin or 0.0 for answer in asked), reverse=True)
    recipe = evolve(base, ask=Blind(template=base.ask.template, threshold=(margins[present - 1] + margins[present]) / 2))
    chosen = [name for name, answer in zip(names, asked, strict=True) if (answer.margin or 0.0) > recipe.ask.threshold]
    return Segmenter(recipe, backbone=model, sam="glyphs"), chosen


def outside(size: Size, counts: Sequence[int] = (20, 80, 171), present: int = 2, repeats: int = 3) -> list[dict[str, object]]:
    """Of one image's processor time up to the prompts, the share that is not spent in the model's forwards, with what is read in them."""
    model, shown = opened(size), picture()
    spent = [0.0]
    forward = model.model.forward

    @wraps(forward)
    def timed(*given: Any, **options: Any) -> Any:
        start = time.process_time()
        try:
            return forward(*given, **options)
        finally:
            spent[0] += time.process_time() - start

    rows: list[dict[str, object]] = []
    for count in counts:
        names = [f"{'' if number < len(NAMES) else 'new '}{NAMES[number % len(NAMES)]} {number}" for number in range(count)]
        segmenter, _ = _with_present(size, names, present)
        wholes, insides = [], []
        with given_length(model), forced_words(model, size):
            for turn in range(1 + repeats):
                spent[0], start = 0.0, time.process_time()
                opened_session = model.open(shown, keep=segmenter.reads, template=segmenter.recipe.ask.template)
                with patch.object(model.model, "forward", timed), opened_session as session:
                    segmenter.evidence(session, {name: [name] for name in names})
                if turn:
                    wholes.append(time.process_time() - start)
                    insides.append(spent[0])
        whole, inside = median(wholes), median(insides)
        rows.append(
            {
                "size": size,
                "classes": count,
                "present": present,
                "whole, processor s": whole,
                "in forwards, s": inside,
                "outside / whole": 1 - inside / whole,
            }
        )
    return rows


@torch.no_grad()
def _plainly(model: probe.Probe, recipe: fseg.Recipe, name: str, present: bool, shown: Any) -> dict[str, Tensor]:
    """D~ and A_v of one class from Hugging Face alone: generate() with everything that it can return."""
    hf, length = model.model, PRESENT if present else ABSENT
    inputs = model.encode(shown, question(name, recipe.ask.question, recipe.ask.article), template=recipe.ask.template).inputs
    hf.set_attn_implementation("eager")
    try:
        made = hf.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=length,
            pad_token_id=0,
            output_attentions=True,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
    finally:
        hf.set_attn_implementation("sdpa")
    if not present:
        return {}
    image = (inputs["input_ids"][0] == model.runtime.image_token_id).nonzero().flatten()
    band: Any = recipe.respond.options["layers"]
    layers = fseg.band(band)
    # The step that follows a generated token is the one in which the model reads it.
    word = torch.stack([made.hidden_states[WORD + 1][layer][0, 0] for layer in layers])
    states = torch.stack([made.hidden_states[0][layer][0, image] for layer in layers])
    distance = torch.cosine_similarity(states.float(), word.float()[:, None], dim=-1).mean(0)
    rows = torch.stack([torch.stack([step[0].mean(0)[0, image] for step in made.attentions[i + 1]]) for i in DESCRIPTION], 1)
    side = int(len(image) ** 0.5)
    maps = rows.reshape(-1, side, side).float()
    return {"raw_distance": distance, "attention": attention_map(maps[select_rows(maps)]).flatten()}
