"""The fusions beyond the paper, in every gridded family, against a few lines of NumPy on what plain Hugging Face returns.

Norm: the largest absolute difference of the maps, which are shares of their peak; 1e-5. Hugging Face runs alone over the whole sequence with
eager attention, the fusions over a shared prefix with the default kernel: another order of float32 sums. `relative` divides by attention of
about 1e-3, so that it gets 1e-4; the token activation map is cut at 0 and filtered by ranks that depend on a coefficient of variation: 1e-4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import log_softmax

import fseg
import probe
from fseg.calls import complete
from fseg.pipeline import collect_evidence, questions_of, reads_of
from fseg.stages.qap import Ask, asked
from tests import zoo
from tests.contract.test_fseg_on_families import FAMILIES, RECIPE, picture
from tests.families.daily import DAILY, daily
from tests.unit.fseg.sams import tiny_sam

BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {"llava": zoo.llava, **FAMILIES}
NAMES = ("dog", "cat", "bird", "tree", "car", "sun")
GENERIC = "Write a general description of the image."
CHANGES: dict[str, dict[str, object]] = {
    "heads": {"respond.heads": ((1, 0), (0, 1)), "respond.sigma": 1.0},
    "heads of the class": {"respond.heads": ((1, 1),), "respond.query": "class", "respond.sigma": 0.0},
    "lens": {"respond.layers": (1.0, 1.0)},
    "relative": {"respond.layers": (2, 2)},
    "tam": {"respond.layers": (1.0, 1.0)},
}
Array = NDArray[np.floating[Any]]


class Plain:
    """What plain Hugging Face returns for the class's answer and for the generic question, of the image's cells."""

    def __init__(self, model: probe.Probe, text: str) -> None:
        self.model, self.text, self.image = model, text, picture((60, 100))
        with model.open(self.image) as session:
            (found,) = Ask(presence="assume", max_new_tokens=2)(session, [text])
            self.answer, generic = found.answer, asked(session, GENERIC)
        before = model.model.config._attn_implementation
        model.model.set_attn_implementation("eager")
        try:
            self.own, self.generic = self.forward(self.answer), self.forward(generic)
        finally:
            model.model.set_attn_implementation(before)
        tokens = self.answer.tokens
        (layout,) = tokens.layouts
        assert layout is not None
        self.grid = next((grid for grid in layout.grids if grid.name == "base"), layout.grids[0])
        self.cells = [tokens.images[0][token] for token in self.grid.tokens]
        self.ids = self.answer.inputs["input_ids"][0].tolist()
        self.name = list(tokens.span("class").positions)
        self.last = len(generic.tokens) - 1  # of the generic prompt
        self.before = min(tokens.span("answer").positions) - 1

    def forward(self, encoding: Any) -> Any:
        with torch.no_grad():
            return self.model.model(**encoding.inputs, output_attentions=True, output_hidden_states=True)

    def heads(self, pairs: list[tuple[int, int]], query: int, sigma: float) -> Array:
        total = np.zeros(self.grid.shape)
        for block, head in pairs:
            total += smoothed(self.own.attentions[block][0, head, query, self.cells].double().numpy().reshape(self.grid.shape), sigma)
        total[total <= total.mean()] = 0
        return total

    def logits(self) -> Array:
        return self.own.logits[0].double().numpy()

    def lens(self) -> Array:
        scores = log_softmax(self.logits()[self.cells], axis=-1)
        return np.exp(scores[:, [self.ids[place] for place in self.name]]).max(1).reshape(self.grid.shape)

    def relative(self) -> Array:
        one = self.own.attentions[1][0].mean(0)[self.before, self.cells].double().numpy()
        other = self.generic.attentions[1][0].mean(0)[self.last, self.cells].double().numpy()
        return (one / other).reshape(self.grid.shape)

    def tam(self) -> Array:
        logits = np.maximum(self.logits(), 0)
        pieces = {self.ids[place] for place in self.name}
        text = [place for place in range(max(self.answer.tokens.images[0]) + 1, self.name[0]) if self.ids[place] not in pieces]
        piece = self.ids[self.name[-1]]
        own = logits[self.cells, piece]
        weight = logits[text, piece] / max(logits[text, piece].sum(), 1e-30)
        explained = sum(share * logits[self.cells, self.ids[place]] for share, place in zip(weight, text, strict=True))
        scale = np.linalg.lstsq(explained[:, None], own, rcond=None)[0][0]
        return filtered(np.maximum(own - scale * explained, 0).reshape(self.grid.shape))


def smoothed(values: Array, sigma: float) -> Array:
    return ndimage.gaussian_filter(values, sigma, truncate=3.0) if sigma else values


def filtered(values: Array) -> Array:
    """The rank Gaussian filter, cell by cell."""
    if min(values.shape) < 2:
        return values
    padded, result = np.pad(values, 1, mode="reflect"), np.zeros_like(values)
    for row, col in np.ndindex(*values.shape):
        window = np.sort(padded[row : row + 3, col : col + 3], axis=None)
        if window.mean() > 0:
            sigma = max(window.std() / window.mean(), 1e-3)
            weights = np.exp(-(np.arange(-4, 5) ** 2) / (2 * sigma**2))
            result[row, col] = (window * weights).sum() / weights.sum()
    return result


@pytest.fixture(scope="module", params=daily(BUILDERS, DAILY - {"llava_next", "llava_onevision"}))
def plain(request: pytest.FixtureRequest) -> Plain:
    hf, processor = BUILDERS[request.param]()
    if request.param == "gemma3":  # the tiny model's window of 6 tokens ends behind the image, a real one's of 1,024 does not
        hf.config.get_text_config().sliding_window = 1024
    model = probe.load(model=hf, processor=processor)
    named = (Plain(model, text) for text in NAMES)  # random weights: of some names every logit at the image is negative
    return next(one for one in named if one.tam().max() > 0)


def response(plain: Plain, name: str, changes: dict[str, object]) -> Array:
    model = plain.model
    recipe = RECIPE.with_({"respond.fusion": name, **changes}).at_depth(len(model.modules.layers))
    with model.open(plain.image, keep=reads_of([recipe])) as session:
        answers = recipe.ask(session, {plain.text: [plain.text]})
        (e,) = complete(collect_evidence(session, answers, reads_of([recipe]), model.lens, questions_of([recipe])))
    found = recipe.respond(e).response
    assert found is not None
    return found.numpy()


@pytest.mark.parametrize("name", CHANGES)
def test_a_fusion_is_that_of_hugging_faces_tensors(plain: Plain, name: str) -> None:
    expected, tolerance = {
        "heads": (lambda: plain.heads([(1, 0), (0, 1)], plain.before, 1.0), 1e-5),
        "heads of the class": (lambda: plain.heads([(1, 1)], plain.name[-1], 0.0), 1e-5),
        "lens": (plain.lens, 1e-5),
        "relative": (plain.relative, 1e-4),
        "tam": (plain.tam, 1e-4),
    }[name]
    there = expected()
    assert there.max() > 0
    found = response(plain, name.split()[0], CHANGES[name])
    assert np.abs(found - there / there.max()).max() < tolerance


def test_a_product_is_the_product_of_its_parts(plain: Plain) -> None:
    parts = {"D": {"respond.layers": (0, 2), "respond.beta": 2.0}, "heads": CHANGES["heads"], "relative": {"respond.layers": (2, 2)}}
    d, heads, relative = (response(plain, name, changes) for name, changes in parts.items())
    found = response(plain, "D*heads*relative", {**parts["D"], **parts["heads"], "respond.relative_layers": (2, 2)})
    assert np.abs(found - d * heads / heads.max() * relative / relative.max()).max() < 1e-5


def test_the_lens_of_a_middle_layer_is_the_models_norm_and_head() -> None:
    model = probe.load(model=(loaded := zoo.llava())[0], processor=loaded[1])
    plain = Plain(model, "dog")
    language = model.model.model.language_model
    with torch.no_grad():
        states = torch.stack([plain.own.hidden_states[layer][0, plain.cells] for layer in (1, 2)])
        logits = model.model.lm_head(language.norm(states)).double().numpy()
    piece = [plain.ids[place] for place in plain.name]
    there = np.exp(log_softmax(logits, axis=-1)[..., piece]).max(axis=(0, 2)).reshape(plain.grid.shape)
    assert np.abs(response(plain, "lens", {"respond.layers": (1, 2)}) - there / there.max()).max() < 1e-5


def test_a_recipe_with_each_fusion_segments_an_image(plain: Plain) -> None:
    for name, changes in {**{name.split()[0]: changes for name, changes in CHANGES.items()}, "D*heads": {}, "D*lens": {}}.items():
        segmenter = fseg.Segmenter(RECIPE.with_({"respond.fusion": name, **changes}), backbone=plain.model, sam=tiny_sam())
        result = segmenter(plain.image, [plain.text, "boat"])
        assert result.labels.shape == (60, 100)
        assert result.evidence[plain.text].context is None  # a result holds no model
