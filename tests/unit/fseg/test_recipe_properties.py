"""Recipes of any values: a valid one comes back from its TOML exactly; anything else is refused in our words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fseg.errors import FsegError
from fseg.fusion_methods.attention import ENTROPIES
from fseg.fusion_methods.distance import CLASS_TOKENS
from fseg.recipe import Recipe, get_recipe
from fseg.stages.compose import FILLS, RESAMPLES, Compose
from fseg.stages.prompts import KINDS, Prompt
from fseg.stages.qap import ARTICLES, DESCRIPTIONS, FULL_STOPS, PRESENCES, Ask
from fseg.stages.segment import MULTIMASKS, Sam
from fseg.stages.tvr import Respond
from fseg.stages.vgm import MASKS, Refine
from fseg.vocabulary.questions import QUESTIONS
from probe.inputs.templates import TEMPLATES
from probe.sessions.gate.choice import GATE_TOKENS

LARGEST = 2**63 - 1
texts = st.text(min_size=1, max_size=30)
whole = st.integers(1, LARGEST) | st.integers(1, 20)
finite = st.floats(allow_nan=False, allow_infinity=False)
share = st.floats(0, 1) | st.integers(0, 1)
ceiling = st.floats(0, allow_infinity=False) | st.integers(0, LARGEST)
bands = st.tuples(st.integers(0, 9999), st.integers(0, 60)).map(lambda band: (band[0], min(9999, band[0] + band[1])))

asks = st.builds(
    Ask,
    question=st.sampled_from(tuple(QUESTIONS)) | st.builds("{}{{article}}{{name}}{}".format, texts, texts),
    article=st.sampled_from(ARTICLES),
    template=st.none() | st.sampled_from(sorted(TEMPLATES)) | st.builds("{}<image>{{question}}{}".format, texts, texts),
    max_new_tokens=whole,
    gate=st.booleans(),
    gate_tokens=st.sampled_from(GATE_TOKENS),
    threshold=finite | st.integers(-LARGEST, LARGEST),
    presence=st.sampled_from(PRESENCES),
    description=st.sampled_from(DESCRIPTIONS),
    full_stop=st.sampled_from(FULL_STOPS),
)
distance = {"layers": bands | bands.map(list), "alpha": share, "beta": ceiling, "class_token": st.sampled_from(CLASS_TOKENS)}
attention = {
    "top_k": whole,
    "drop_light_rows": st.booleans(),
    "drop_sinks": st.booleans(),
    "entropy": st.sampled_from(tuple(ENTROPIES)),
    "mean_factor": ceiling,
    "rows": st.sampled_from(["at", "before"]),
}
responds = st.builds(Respond, st.just("D"), st.fixed_dictionaries({}, optional=distance)) | st.builds(
    Respond, st.sampled_from(["M_A", "D*M_A"]), st.fixed_dictionaries({}, optional={**distance, **attention})
)
refines = st.builds(
    Refine,
    mask=st.sampled_from(MASKS),
    alpha=share,
    beta=ceiling,
    vision_layer=st.integers(-LARGEST, LARGEST),
    epsilon=st.floats(0, 1),
    fallback=st.booleans(),
)
recipes = st.builds(
    Recipe,
    texts,
    texts,
    ask=asks,
    respond=responds,
    refine=refines,
    prompt=st.builds(Prompt, kind=st.sampled_from(KINDS), min_patches=whole, snap=st.booleans()),
    sam=st.builds(Sam, checkpoint=texts, multimask=st.sampled_from(MULTIMASKS), refine=st.booleans()),
    compose=st.builds(Compose, fill=st.sampled_from(FILLS), resample=st.sampled_from(RESAMPLES)),
)

KEYS = Recipe("a", "b").keys()
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 2**64, float("nan"), float("inf"), "D", "vicuna_v1", "\ud800", b"D", object()])
    | st.floats()
    | st.text(alphabet=st.characters(), max_size=10)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
values = st.sampled_from(
    [
        *(
            "true",
            "nan",
            "-inf",
            "1e400",
            "0x1F",
            "1979-05-27",
            "07:32:00",
            '"D"',
            '"D*M_A"',
            "''",
            '"\\u0000"',
            '"\\ud800"',
            "[7, 13]",
            "[13, 7]",
        ),
        *(
            "[[[1]]]",
            "{a = 1}",
            "[]",
            "'''a\nb'''",
            "9" * 5000,
            "[" * 3000,
            "1_000",
            "-1",
            "0.5",
            "[true, false]",
            "",
            "=",
            "#",
            "\udce9",
            "\x00",
        ),
    ]
)
lines = st.builds("{} = {}".format, st.sampled_from([*KEYS, "layers", "fusion", "kind", '"ask.gate"', "a b"]), values)
tables = st.sampled_from(["[ask]", "[respond]", "[prompt]", "[[sam]]", "[ask.question]", "[]", "[a.b.c]", 'name = "x"', 'backbone = "y"'])
mostly_toml = st.lists(lines | tables | st.text(max_size=20), max_size=12).map("\n".join)


@given(recipes)
def test_any_recipe_comes_back_from_its_toml_exactly(recipe: Recipe) -> None:
    text = recipe.to_toml()
    assert Recipe.from_toml(text) == recipe
    assert Recipe.from_toml(text).to_toml() == text


@given(mostly_toml)
def test_text_that_is_mostly_toml_gives_a_recipe_or_our_error(text: str) -> None:
    _recipe_or_our_error(lambda: Recipe.from_toml(text))


@given(recipes, st.data())
def test_a_damaged_recipe_gives_a_recipe_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, recipe: Recipe, data: st.DataObject
) -> None:
    content = bytearray(recipe.to_toml().encode())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=10))
    path: Path = tmp_path_factory.getbasetemp() / "damaged.toml"
    path.write_bytes(content)
    _recipe_or_our_error(lambda: get_recipe(path))


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=10), anything, max_size=5) | anything)
def test_any_changes_give_a_recipe_or_our_error(changes: Any) -> None:
    made = _recipe_or_our_error(lambda: Recipe("a", "b").with_(changes))
    if made is not None:
        assert Recipe.from_toml(made.to_toml()) == made


def _recipe_or_our_error(make: Any) -> Recipe | None:
    try:
        made = make()
    except FsegError:
        return None
    assert isinstance(made, Recipe)
    return made
