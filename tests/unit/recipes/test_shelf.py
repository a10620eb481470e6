from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import probe
from fseg.errors import UnknownRecipe
from fseg.recipe import Recipe
from recipes.ablations import TABLES, rows, table
from recipes.fast import FAST
from recipes.fusions import FUSIONS, METHODS
from recipes.glyphs import GLYPHS
from recipes.paper import LLAVA_1_5_VICUNA_7B, PAPER
from recipes.stuff import STUFF


def test_the_papers_settings_by_language_model():
    settings = {r.name: (r.respond.options["layers"], r.respond.options["beta"], r.refine.beta, r.ask.template) for r in PAPER}
    assert settings == {
        "fseg-llava-1.5-vicuna-7b": ((7, 13), 0.19, 0.19, "vicuna_v1"),
        "fseg-llava-1.6-mistral-7b": ((7, 13), 0.16, 0.16, "mistral_instruct"),
        "fseg-llava-1.6-vicuna-7b": ((7, 13), 0.19, 0.19, "vicuna_v1"),
        "fseg-llava-1.6-vicuna-13b": ((7, 23), 0.19, 0.19, "vicuna_v1"),
    }
    assert {(r.respond.options["alpha"], r.refine.alpha, r.sam.checkpoint) for r in PAPER} == {(0.75, 0.75, "facebook/sam-vit-huge")}


@pytest.mark.parametrize("recipe", [GLYPHS, *PAPER, *FAST, *FUSIONS, *STUFF, *rows()], ids=lambda recipe: recipe.name)
def test_every_recipe_survives_its_toml(recipe):
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.parametrize("number", TABLES)
def test_one_row_of_each_table_is_the_papers_own_recipe(number):
    own = [name for name, r in table(number).items() if r.with_({"name": LLAVA_1_5_VICUNA_7B.name}) == LLAVA_1_5_VICUNA_7B]
    assert len(own) == 1
    assert TABLES[number].rows[own[0]].printed == (68.0, 65.9)


def test_a_row_changes_its_switch_and_nothing_else():
    row = table(3, GLYPHS)["7-17"]
    assert row.respond.options["layers"] == (7, 17)
    assert row == GLYPHS.with_({"name": "glyphs/table-3/7-17", "respond.layers": (7, 17)})


def test_a_table_that_is_no_ablation_lists_those_that_are():
    with pytest.raises(UnknownRecipe, match=r"Table 1 is no ablation of the paper\. Ablations: 2, 3, 4, 5, 6"):
        table(1)


def test_a_fast_recipe_generates_nothing_and_reads_no_attention():
    assert [recipe.name for recipe in FAST] == [f"{recipe.name}-fast" for recipe in (GLYPHS, *PAPER)]
    for recipe in FAST:
        assert recipe.ask.presence == "gate"
        assert [read for read in (*recipe.respond.reads(), *recipe.refine.reads()) if isinstance(read, probe.Attention)] == []


def test_each_fusion_has_a_recipe_alone_and_times_d():
    names = [recipe.name for recipe in FUSIONS]
    bases = (GLYPHS.name, LLAVA_1_5_VICUNA_7B.name)
    assert sorted(names) == sorted(f"{base}{part}{method}" for base in bases for part in ("-", "-d-") for method in METHODS)
    for recipe in FUSIONS:
        assert recipe.respond.fusion in METHODS or recipe.respond.fusion.removeprefix("D*") in METHODS
        # A response that is a share of its peak has no ceiling; a product with D keeps D's.
        assert recipe.refine.beta == (1.0 if recipe.respond.fusion in METHODS else recipe.respond.options["beta"])


def test_the_fusions_of_a_7b_model_take_the_layers_of_their_papers():
    layers = {recipe.name.rpartition("-")[2]: recipe.respond.options.get("layers") for recipe in FUSIONS if recipe.name.startswith("fseg-")}
    assert (layers["lens"], layers["relative"], layers["tam"]) == ((7, 13), (7, 13), (7, 13))  # of the product: D's own
    products = {recipe.respond.fusion: dict(recipe.respond.options) for recipe in FUSIONS if recipe.name.startswith("fseg-")}
    assert products["D*relative"]["relative_layers"] == products["relative"]["layers"] == (15, 15)  # hidden_states[15]: block 14
    assert products["D*lens"]["lens_layers"] == products["lens"]["layers"] == (0, 32)
    assert products["D*tam"]["tam_layers"] == products["tam"]["layers"] == (32, 32)


def test_the_entry_point_registers_them():
    entries = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    assert entries["fseg.recipes"]["fusions"] == "recipes.fusions:FUSIONS"
