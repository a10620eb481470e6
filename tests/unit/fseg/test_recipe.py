from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch

import fseg
from fseg.checkpoints import Backbone
from fseg.errors import InvalidBand, InvalidOption, InvalidRecipe, UnknownFusion, UnknownRecipe
from fseg.fusion_methods import registry
from fseg.fusion_methods.registry import fusion
from fseg.plugins import GROUP
from fseg.recipe import Recipe, get_recipe, recipes
from fseg.stages.qap import Ask
from fseg.stages.tvr import Respond

PLAIN = Recipe("plain", "some/model")


@pytest.fixture
def shelf(monkeypatch):
    """Entry points that load this module's names."""

    def put(**entries):
        for name, value in entries.items():
            monkeypatch.setitem(globals(), name, value)
        found = [EntryPoint(name, f"{__name__}:{name}", GROUP) for name in entries]
        monkeypatch.setattr("fseg.plugins.entry_points", lambda group: found)

    return put


def test_the_defaults_are_the_papers():
    assert PLAIN.respond == Respond("D*M_A", {"layers": (7, 13), "alpha": 0.75, "beta": 0.19, "top_k": 10})
    assert (PLAIN.ask.question, PLAIN.refine.mask, PLAIN.prompt.kind) == ("class", "both", "both")


def test_dotted_keys_change_a_stage_and_leave_the_original():
    changed = PLAIN.with_({"respond.layers": [7, 17], "prompt.kind": "box", "name": "mine"})
    assert (changed.respond.options["layers"], changed.prompt.kind, changed.name) == ((7, 17), "box", "mine")
    assert PLAIN.respond.options["layers"] == (7, 13)


def test_an_unknown_key_lists_the_known_ones():
    with pytest.raises(InvalidRecipe, match=r"No key 'respond.layer' .* ask\.question.* respond\.layers.* compose\.fill"):
        PLAIN.with_({"respond.layer": (7, 17)})


def test_another_fusion_keeps_the_options_that_it_shares(monkeypatch):
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))

    @fusion("sharp", reads=lambda **_: [])
    def sharp(e, *, layers=(7, 13), power=2.0):
        return torch.zeros(e.grid.shape)

    changed = PLAIN.with_({"respond.layers": (5, 9), "respond.top_k": 3}).with_({"respond.fusion": "sharp", "respond.power": 3})
    assert dict(changed.respond.options) == {"layers": (5, 9), "power": 3.0}
    back = changed.with_({"respond.fusion": "D*M_A"})
    assert (back.respond.options["layers"], back.respond.options["top_k"]) == ((5, 9), 10)


def test_an_option_of_another_fusion_is_an_unknown_key():
    with pytest.raises(InvalidRecipe, match=r"No key 'respond\.top_k' in a recipe with the fusion 'D'"):
        PLAIN.with_({"respond.fusion": "D", "respond.top_k": 3})


def test_a_wrong_value_says_what_its_field_takes():
    with pytest.raises(InvalidOption, match=r"refine\.mask='M_r'"):
        PLAIN.with_({"refine.mask": "M_r"})


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(PLAIN, id="defaults"),
        pytest.param(PLAIN.with_({"respond.fusion": "D", "respond.layers": (7, 17), "refine.epsilon": 1e-12}), id="changed"),
        pytest.param(Recipe('q"\\\n\t\x7fé😀', "a b", ask=Ask(template="USER: <image>\n{question} ASSISTANT:")), id="characters"),
    ],
)
def test_toml_gives_the_recipe_back_exactly(recipe):
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert Recipe.from_toml(recipe.to_toml()).to_toml() == recipe.to_toml()


def test_toml_holds_the_fusions_options_beside_its_name():
    tables = tomllib.loads(PLAIN.to_toml())
    assert tables["respond"]["fusion"] == "D*M_A"
    assert tables["respond"]["layers"] == [7, 13]
    assert "template" not in tables["ask"]


def test_what_toml_leaves_out_takes_its_default():
    recipe = Recipe.from_toml('name = "mine"\nbackbone = "some/model"\n[respond]\nfusion = "D"\n')
    assert recipe == PLAIN.with_({"name": "mine", "respond.fusion": "D"})


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        pytest.param("name = ", InvalidRecipe, "Not TOML", id="not toml"),
        pytest.param('name = "x"', InvalidRecipe, "needs backbone; this one has name", id="no backbone"),
        pytest.param('name = "x"\nbackbone = "y"\n[prompts]\nkind = "box"', InvalidRecipe, r"No key 'prompts\.kind'", id="unknown table"),
        pytest.param('name = "x"\nbackbone = "y"\nask = "class"', InvalidRecipe, r"write \[ask\]", id="table as a value"),
        pytest.param('name = "x"\nbackbone = "y"\n[respond]\nfusion = "E"', UnknownFusion, 'No fusion "E"', id="unknown fusion"),
        pytest.param('name = 3\nbackbone = "y"', InvalidOption, "name=3: takes a text", id="name of another kind"),
        pytest.param(f"name = {'[' * 5000}", InvalidRecipe, "Not TOML", id="lists in lists"),
        pytest.param(f"name = {'9' * 5000}", InvalidRecipe, "Not TOML", id="a number of 5,000 digits"),
        pytest.param(b'name = "x"', InvalidRecipe, "is read from text, not from b'name", id="bytes"),
        pytest.param('name = "x"\nbackbone = "y"\n[respond]\nfusion = [1]', InvalidOption, r"respond\.fusion=\[1\]: takes", id="a list"),
        pytest.param('name = "x"\nbackbone = "y"\n[ask]\ntemplate = 3', InvalidOption, r"ask\.template=3: takes a text", id="template"),
        pytest.param(
            f'name = "x"\nbackbone = "y"\n[respond]\nalpha = 1{"0" * 400}',
            InvalidOption,
            r"alpha=10+\.\.\.: a recipe can hold .* a number of at most 64 bits",
            id="10^400",
        ),
    ],
)
def test_toml_that_is_no_recipe_says_why(text, error, message):
    with pytest.raises(error, match=message):
        Recipe.from_toml(text)


def test_a_threshold_changes_in_both_stages_unless_they_were_set_apart():
    both = PLAIN.with_({"respond.alpha": 0.5, "respond.beta": 0.3})
    assert (both.refine.alpha, both.refine.beta) == (0.5, 0.3)
    assert Recipe.from_toml('name = "x"\nbackbone = "y"\n[respond]\nbeta = 0.3').refine.beta == 0.3
    assert Recipe("x", "y", respond=Respond("D", {"beta": 0.3})).refine.beta == 0.3
    apart = PLAIN.with_({"respond.beta": 0.3, "refine.beta": 0.1})
    assert (apart.respond.options["beta"], apart.refine.beta) == (0.3, 0.1)
    assert apart.with_({"respond.beta": 0.4}).refine.beta == 0.1


def test_a_fusion_without_a_threshold_leaves_the_background_its_own(monkeypatch):
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))

    @fusion("bare", reads=lambda **_: [])
    def bare(e):
        return torch.zeros(e.grid.shape)

    assert PLAIN.with_({"respond.beta": 0.3}).with_({"respond.fusion": "bare"}).refine.beta == 0.3
    assert Recipe("x", "y", respond=Respond("bare")).refine.beta == 0.19


ALL_WAYS = {
    "one": PLAIN.with_({"name": "one"}),
    "several": [PLAIN.with_({"name": "two"}), PLAIN.with_({"name": "three"})],
    "mapping": {"ignored": PLAIN.with_({"name": "four"})},
    "function": lambda: [PLAIN.with_({"name": "five"})],
}


def test_an_entry_point_yields_recipes_in_any_of_four_ways(shelf):
    shelf(**ALL_WAYS)
    assert recipes() == ("five", "four", "one", "three", "two")
    assert get_recipe("three").name == "three"


def test_an_unknown_recipe_lists_the_registered_ones_without_rows_of_tables(shelf):
    shelf(some=[PLAIN, PLAIN.with_({"name": "plain/table-3/7-9"})])
    with pytest.raises(UnknownRecipe, match=r'No recipe "plane"\. Registered: plain\.'):
        get_recipe("plane")


def test_no_entry_point_at_all_asks_for_a_reinstallation(shelf):
    shelf()
    with pytest.raises(UnknownRecipe, match="Reinstall the package"):
        recipes()


def test_two_recipes_of_one_name_are_refused_naming_both(shelf):
    shelf(first=PLAIN, second=PLAIN.with_({"prompt.kind": "box"}))
    with pytest.raises(InvalidRecipe, match=r'Two recipes "plain": of .*:first and of .*:second'):
        get_recipe("plain")


def test_a_file_is_a_recipe_by_its_path(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(PLAIN.to_toml(), encoding="utf-8")
    assert get_recipe(path) == get_recipe(str(path)) == PLAIN


def test_a_file_of_other_bytes_is_no_recipe(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b'name = "caf\xe9"')
    with pytest.raises(InvalidRecipe, match=r"mine\.toml' cannot be read: .*UTF-8"):
        get_recipe(tmp_path / "mine.toml")
    with pytest.raises(UnknownRecipe, match="No file"):
        get_recipe("a" * 5000 + ".toml")
    with pytest.raises(UnknownRecipe, match="5 was given for a recipe"):
        get_recipe(5)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"respond.fusion": [1]}, InvalidOption, r"respond\.fusion=\[1\]: takes the name of a fusion"),
        ({"respond.layers": (0, 10**9)}, InvalidOption, "0 <= first <= last < 10000"),
        ({"respond.alpha": 100}, InvalidOption, r"alpha=100\.0: takes a finite number of at least 0 and at most 1"),
        ({"respond.alpha": -1}, InvalidOption, "at least 0 and at most 1"),
        ({"respond.beta": -3}, InvalidOption, r"beta=-3\.0: takes a finite number of at least 0"),
        ({"refine.alpha": 1.5}, InvalidOption, r"refine\.alpha=1\.5: takes a finite number of at least 0 and at most 1"),
        ({"refine.beta": -0.1}, InvalidOption, "of at least 0"),
        ({"refine.epsilon": 1e300}, InvalidOption, "at least 0 and at most 1"),
        ({"refine.vision_layer": 10**5000}, InvalidOption, "too large to show: takes a whole number"),
        ({"name": "half \udce9"}, InvalidOption, "lone surrogate"),
        ({"sam.checkpoint": 3}, InvalidOption, r"sam\.checkpoint=3: takes a text"),
        ({3: 4}, InvalidRecipe, "No key 3 in a recipe"),
        ([("prompt.kind", "box")], InvalidRecipe, "Changes of a recipe are a mapping"),
    ],
)
def test_values_that_mean_nothing_are_refused_with_their_range(changes, error, message):
    with pytest.raises(error, match=message):
        PLAIN.with_(changes)


def test_numbers_of_numpy_are_written_as_numbers():
    changed = PLAIN.with_({"refine.alpha": np.float64(0.5), "respond.beta": np.float64(0.25)})
    assert "alpha = 0.5" in changed.to_toml()
    assert Recipe.from_toml(changed.to_toml()) == changed


def test_a_missing_file_is_named(tmp_path, shelf):
    shelf(some=PLAIN)
    with pytest.raises(UnknownRecipe, match=r"No file .*mine\.toml.*registered recipe: plain"):
        get_recipe(tmp_path / "mine.toml")


def test_a_fusion_of_a_toml_file_has_its_own_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))

    @fusion("near the start", reads=lambda layers, **_: [])
    def near(e: object, *, layers: tuple[int, int] = (1, 3)) -> None: ...

    recipe = Recipe.from_toml('name = "mine"\nbackbone = "glyphs"\n[respond]\nfusion = "near the start"')
    assert dict(recipe.respond.options) == {"layers": (1, 3)}


def test_the_threshold_stays_one_over_a_fusion_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))

    @fusion("plain", reads=lambda **_: [])
    def plain(e, *, layers=(1, 2)):
        """Reads nothing."""

    recipe = get_recipe("glyphs")
    back = recipe.with_({"respond.fusion": "plain"}).with_({"respond.fusion": recipe.respond.fusion})
    assert back.respond.options["beta"] == back.refine.beta == recipe.refine.beta != 0.19
    assert back.with_({"respond.beta": 0.5}).refine.beta == 0.5


def test_layers_in_shares_of_the_depth_are_the_papers_in_a_model_of_32_layers() -> None:
    recipe = fseg.get_recipe("glyphs").with_({"respond.layers": (0.22, 0.41)})
    assert [recipe.at_depth(depth).respond.options["layers"] for depth in (32, 40, 8)] == [(7, 13), (9, 16), (2, 3)]
    assert fseg.Recipe.from_toml(recipe.to_toml()) == recipe
    with pytest.raises(InvalidBand, match=r"shares are layers only in a model of known depth\. .* recipe\.at_depth\(32\)"):
        recipe.respond.reads()


@pytest.mark.parametrize("layers", [(-0.1, 0.5), (0.2, 1.1), (0.6, 0.5), (0.5,), (float("nan"), 0.5), (True, 0.5)])
def test_shares_outside_0_to_1_are_refused(layers: tuple[float, ...]) -> None:
    with pytest.raises(InvalidBand, match=r"from 0\.0 to 1\.0, such as \(0\.22, 0\.41\)"):
        fseg.get_recipe("glyphs").with_({"respond.layers": layers})


def test_a_checkpoint_alone_is_a_backbone() -> None:
    recipe = fseg.Recipe.from_toml('name = "mine"\nbackbone = "folder"')
    assert recipe.backbone == Backbone("folder", prepare="stretch")
    assert recipe.with_({"backbone": "other"}).backbone.checkpoint == "other"
    assert recipe.with_({"backbone.prepare": "processor"}).backbone == Backbone("folder", prepare="processor")
    with pytest.raises(InvalidOption, match=r"backbone\.prepare='crop': takes 'stretch', 'pad', 'processor'"):
        recipe.with_({"backbone.prepare": "crop"})


def test_a_note_is_kept() -> None:
    recipe = fseg.get_recipe("fseg-qwen2.5-vl-7b")
    assert recipe.note == "not calibrated"
    assert fseg.Recipe.from_toml(recipe.to_toml()).note == "not calibrated"


def test_the_view_is_no_option_of_the_fusion() -> None:
    recipe = fseg.get_recipe("glyphs").with_({"respond.view": "both"}).with_({"respond.fusion": "D"})
    assert recipe.respond.view == "both"
    assert "view" not in recipe.respond.options
    with pytest.raises(InvalidOption, match=r"respond\.view='all': takes 'auto', 'base', 'tiles', 'both'"):
        recipe.with_({"respond.view": "all"})


def test_a_value_that_the_next_fusion_refuses_may_be_changed_with_it():
    embeddings = get_recipe("glyphs").with_({"respond.layers": (0, 0)})
    assert embeddings.with_({"respond.fusion": "relative", "respond.layers": (4, 4)}).respond.options["layers"] == (4, 4)
    with pytest.raises(InvalidBand):
        embeddings.with_({"respond.fusion": "relative"})
