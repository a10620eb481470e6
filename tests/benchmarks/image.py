"""A whole image: the method of `fseg-llava-1.5` through the Segmenter, against one generate() with eager attentions a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import fseg
import probe
from fseg.pipeline import Segmenter
from fseg.recipe import get_recipe
from fseg.stages.qap import Ask, ClassAnswer
from fseg.stages.tvr import attention_map, select_rows
from probe.spans import Span
from tests.benchmarks.models import Size, opened, picture
from tests.benchmarks.questions import NAMES
from tests.benchmarks.timing import seconds

PRESENT, ABSENT = 40, 3  # tokens of an answer of yes and of one of no
WORD, DESCRIPTION = 6, range(8, 39)  # where in an answer the class name and the second sentence are taken to be
TOLERANCE = 2e-5  # float32, max abs: the same sums, grouped otherwise


@dataclass(frozen=True)
class Blind(Ask):
    """Random weights say neither yes nor no: the classes with the largest margins count as present, and positions stand for the words."""

    def __call__(self, session: probe.Session, classes: Sequence[str] | Mapping[str, Sequence[str]]) -> list[ClassAnswer]:
        gate = probe.Choice(yes=("yes", "Yes"), no=("no", "No"), threshold=self.threshold)
        answers = session.ask([self._question(name) for name in classes], max_new_tokens=PRESENT, gate=gate)
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
    base = get_recipe("fseg-llava-1.5-vicuna-7b")
    with model.open(shown, template=base.ask.template) as session:
        gate = probe.Choice(yes=("yes", "Yes"), no=("no", "No"))
        asked = session.ask([base.ask._question(name) for name in names], max_new_tokens=0, gate=gate)
    margins = sorted((answer.margin or 0.0 for answer in asked), reverse=True)
    recipe = replace(base, ask=Blind(template=base.ask.template, threshold=(margins[present - 1] + margins[present]) / 2))
    segmenter = Segmenter(recipe, backbone=model, sam="glyphs")
    chosen = [name for name, answer in zip(names, asked, strict=True) if (answer.margin or 0.0) > recipe.ask.threshold]
    classes_by_name = {name: [name] for name in names}

    def ours() -> list[fseg.Evidence]:
        pictures = model.prepare(shown)
        with model.open(pictures, keep=segmenter.reads, template=recipe.ask.template) as session:
            return segmenter.evidence(session, classes_by_name, (shown.height, shown.width))

    def theirs() -> dict[str, dict[str, Tensor]]:
        return {name: _plainly(model, recipe.ask, name, name in chosen, shown) for name in names}

    found, expected = {e.name: e for e in ours() if e.present}, {name: maps for name, maps in theirs().items() if maps}
    assert list(found) == list(expected) == chosen
    for name, maps in expected.items():
        for map_name, values in maps.items():
            difference = float((getattr(found[name], map_name).flatten() - values).abs().max())
            assert difference <= TOLERANCE, f"{map_name} of {name} differs by {difference}"
    took = seconds({"session": ours, "plain": theirs}, repeats, warm_up=0)
    took |= seconds({"sam": lambda: segmenter.segment(shown, tuple(names), list(found.values()))}, repeats)
    return [
        {
            "size": size,
            "classes": classes,
            "present": present,
            "one generate() a class, s": took["plain"],
            "Segmenter, s": took["session"],
            "ratio": took["plain"] / took["session"],
            "the embedded SAM, apart, s": took["sam"],
        }
    ]


@torch.no_grad()
def _plainly(model: probe.Probe, ask: Ask, name: str, present: bool, shown: Any) -> dict[str, Tensor]:
    """D~ and A_v of one class from Hugging Face alone: generate() with everything that it can return."""
    hf, length = model.model, PRESENT if present else ABSENT
    inputs = model.encode(shown, ask._question(name), template=ask.template).inputs
    hf.set_attn_implementation("eager")
    try:
        made = hf.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=length,
            pad_token_id=0,
            suppress_tokens=[model.image_token_id()],
            output_attentions=True,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
    finally:
        hf.set_attn_implementation("sdpa")
    if not present:
        return {}
    image = (inputs["input_ids"][0] == model.image_token_id()).nonzero().flatten()
    layers = range(7, 14)
    # The step that follows a generated token is the one in which the model reads it.
    word = torch.stack([made.hidden_states[WORD + 1][layer][0, 0] for layer in layers])
    states = torch.stack([made.hidden_states[0][layer][0, image] for layer in layers])
    distance = torch.cosine_similarity(states.float(), word.float()[:, None], dim=-1).mean(0)
    rows = torch.stack([torch.stack([step[0].mean(0)[0, image] for step in made.attentions[i + 1]]) for i in DESCRIPTION], 1)
    side = int(len(image) ** 0.5)
    maps = rows.reshape(-1, side, side).float()
    return {"raw_distance": distance, "attention": attention_map(maps[select_rows(maps)]).flatten()}
