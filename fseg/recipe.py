"""Recipes: a chain of stages as data, by name, as TOML, and with changes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from os.path import isfile
from pathlib import Path
from typing import TypeVar

import cattrs
import tomli_w
from attrs import Attribute, Factory, evolve, field, frozen, has

from fseg.checkpoints import Backbone, as_backbone
from fseg.checks import check_text, shown
from fseg.errors import InvalidRecipe, UnknownRecipe
from fseg.fusion_methods.options import RESERVED
from fseg.fusion_methods.registry import get_fusion
from fseg.plugins import GROUP, packages
from fseg.stages.compose import Compose
from fseg.stages.prompts import Prompt
from fseg.stages.qap import Ask
from fseg.stages.segment import Sam
from fseg.stages.tvr import Respond
from fseg.stages.vgm import Refine
from probe.notebook import Html, section, table

Stage = TypeVar("Stage")

THRESHOLD = ("alpha", "beta")
"""The parameters of Eq. 4's threshold, which the respond stage applies to each class and the refine stage to all of them together."""


def _check_text(_: object, field: Attribute[str], value: str) -> None:
    check_text(field.name, value)


def _check_note(_: object, field: Attribute[str], value: str) -> None:
    if value != "":
        check_text(field.name, value)


def _check_stage(_: object, field: Attribute[Stage], value: Stage) -> None:
    kind = STAGES[field.name]
    if not isinstance(value, kind):
        raise InvalidRecipe(f"{field.name}={shown(value)}: that stage of a recipe is a {kind.__name__}.")


def _same_threshold(recipe: Recipe) -> Refine:
    """The default of `refine`: the threshold of the respond stage, if its fusion has one."""
    options = recipe.respond.options if isinstance(recipe.respond, Respond) else {}
    return Refine(**{name: options[name] for name in THRESHOLD if name in options})  # type: ignore[arg-type]  # Refine checks them


@frozen(repr=False)
class Recipe:
    """A chain of stages.

    Attributes:
        name: labels the results.
        backbone: the model: a hub id, a folder, or the name of an embedded model ("glyphs"); and how it prepares images.
        ask: which classes are there (QAP).
        respond: one response map for each class (TVR).
        refine: from responses to masks on the grid (VGM). By default its alpha and beta are those of `respond`.
        prompt: from masks to points and boxes.
        sam: from points and boxes to masks on the image.
        compose: from masks to labels.
        note: what a reader of the recipe should know, such as "not calibrated".

    >>> recipe = fseg.Recipe("mine", "llava-hf/llava-1.5-7b-hf")
    >>> recipe.prompt.kind, recipe.with_({"prompt.kind": "box"}).prompt.kind
    ('both', 'box')
    """

    name: str = field(validator=_check_text)
    backbone: Backbone = field(converter=as_backbone, validator=_check_stage)
    ask: Ask = field(factory=Ask, validator=_check_stage)
    respond: Respond = field(factory=Respond, validator=_check_stage)
    refine: Refine = field(default=Factory(_same_threshold, takes_self=True), validator=_check_stage)
    prompt: Prompt = field(factory=Prompt, validator=_check_stage)
    sam: Sam = field(factory=Sam, validator=_check_stage)
    compose: Compose = field(factory=Compose, validator=_check_stage)
    note: str = field(default="", validator=_check_note)

    def __repr__(self) -> str:
        respond = self.respond.fusion if isinstance(self.respond, Respond) else type(self.respond).__name__
        return f"Recipe({self.name!r}, backbone {self.backbone.checkpoint!r}, {respond}; to_toml() has all values)"

    def _repr_html_(self) -> Html:
        return section(repr(self), table([(key, str(value)) for key, value in _flat(self.to_dict()).items()]))

    def at_depth(self, depth: int) -> Recipe:
        """The recipe for a model of so many decoder layers: bands in shares of the depth become layers.

        >>> fseg.get_recipe("glyphs").with_({"respond.layers": (0.4, 0.5)}).at_depth(8).respond.options["layers"]
        (3, 4)
        """
        return evolve(self, respond=self.respond.at_depth(depth))

    def keys(self) -> tuple[str, ...]:
        """All keys that `with_` takes, including the fusion's options.

        >>> [key for key in fseg.get_recipe("glyphs").keys() if key.startswith("prompt")]
        ['prompt.kind', 'prompt.min_patches', 'prompt.snap', 'prompt.stuff_share', 'prompt.stuff_points']
        """
        return tuple(_flat(self.to_dict()))

    def to_dict(self) -> dict[str, object]:
        """The recipe as plain values: a dict for each stage, with the fusion's options in that of `respond`.

        >>> fseg.get_recipe("glyphs").to_dict()["prompt"]
        {'kind': 'both', 'min_patches': 2, 'snap': False, 'stuff_share': 1.0, 'stuff_points': 8}
        """
        values: dict[str, object] = _CONVERTER.unstructure(self)
        return values

    def with_(self, changes: Mapping[str, object]) -> Recipe:
        """The recipe with some values changed.

        With another `respond.fusion`, the options that both fusions have keep their values, and the others take their defaults. Eq. 4's
        threshold appears in two stages: `refine.alpha` and `refine.beta` change with those of `respond`, unless they already differ or are
        among the changes.

        Args:
            changes: dotted keys, as in `{"respond.layers": (7, 17), "prompt.kind": "box"}`; "backbone" is short for "backbone.checkpoint".

        Raises:
            InvalidRecipe: a key that the recipe does not have; the message lists those that it has.
            InvalidOption, UnknownFusion: a value that its field does not take.

        >>> recipe = fseg.get_recipe("glyphs").with_({"respond.beta": 0.3})
        >>> recipe.respond.options["beta"], recipe.refine.beta
        (0.3, 0.3)
        """
        if not isinstance(changes, Mapping):
            raise InvalidRecipe(f"Changes of a recipe are a mapping, such as {{'prompt.kind': 'box'}}, not {shown(changes)}.")
        changes = {"backbone.checkpoint" if key == "backbone" else key: value for key, value in changes.items()}
        base = self._with_fusion(changes.get("respond.fusion", self.respond.fusion), changes)
        known = base.keys()
        unknown = [key for key in changes if key not in known]
        if unknown:
            fusion = base.respond.fusion
            raise InvalidRecipe(f"No key {shown(unknown[0])} in a recipe with the fusion {fusion!r}. Keys: {', '.join(known)}.")
        values = _CONVERTER.unstructure(base)
        for key, value in (base._threshold_changes(changes) | dict(changes)).items():
            stage, _, name = key.rpartition(".")
            (values[stage] if stage else values)[name] = value
        return _CONVERTER.structure(values, Recipe)

    def to_toml(self) -> str:
        """The recipe as TOML; `from_toml` restores it exactly. Values that are None are left out, since TOML has no null.

        >>> fseg.Recipe.from_toml(fseg.get_recipe("glyphs").to_toml()) == fseg.get_recipe("glyphs")
        True
        """
        return toml_of(self.to_dict())

    @classmethod
    def from_toml(cls, text: str) -> Recipe:
        """A recipe from TOML. Keys that are left out take their defaults.

        Raises:
            InvalidRecipe: not TOML, no name or backbone, or a key that a recipe does not have.
            InvalidOption, UnknownFusion: a value that its field does not take.

        >>> fseg.Recipe.from_toml('name = "mine"\\nbackbone = "glyphs"\\n[prompt]\\nkind = "box"').prompt.kind
        'box'
        """
        if not isinstance(text, str):
            raise InvalidRecipe(f"A recipe is read from text, not from {shown(text)}. get_recipe(path) opens a file.")
        try:
            values = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, deeply nested lists
            raise InvalidRecipe(f"Not TOML: {error}. Recipe.to_toml() writes one to start from.") from error
        missing = [key for key in ("name", "backbone") if key not in values]
        if missing:
            raise InvalidRecipe(f"A recipe needs {' and '.join(missing)}; this one has {', '.join(values) or 'nothing'}.")
        if isinstance(values["backbone"], str):
            values["backbone"] = {"checkpoint": values["backbone"]}
        not_tables = [stage for stage in STAGES if not isinstance(values.get(stage, {}), dict)]
        if not_tables:
            raise InvalidRecipe(f"{not_tables[0]} is a table of a recipe: write [{not_tables[0]}] and its keys below it.")
        fusion = values.get("respond", {}).get("fusion", Respond().fusion)  # from its own defaults, not from those of the default fusion
        return cls(values["name"], values["backbone"].get("checkpoint", ""), respond=Respond(fusion)).with_(_flat(values))

    def _with_fusion(self, name: object, changes: Mapping[str, object]) -> Recipe:
        """The recipe with another fusion, which keeps the values of the options that both have.

        A value that is among the changes need not suit the new fusion.

        While a fusion has no threshold, `refine` keeps that of the recipe.
        """
        fusion = get_fusion(name)
        values = {name: getattr(self.refine, name) for name in THRESHOLD} | dict(self.respond.options)
        stays = {name for name in fusion.defaults if name in THRESHOLD or f"respond.{name}" not in changes}
        kept = {name: value for name, value in values.items() if name in stays}
        return evolve(self, respond=Respond(fusion.name, kept, self.respond.view))

    def _threshold_changes(self, changes: Mapping[str, object]) -> dict[str, object]:
        """The changes of refine's alpha and beta that follow from those of respond."""
        return {
            f"refine.{name}": changes[f"respond.{name}"]
            for name in THRESHOLD
            if f"respond.{name}" in changes and getattr(self.refine, name) == self.respond.options[name]
        }


STAGES: dict[str, type[object]] = {
    "backbone": Backbone,
    "ask": Ask,
    "respond": Respond,
    "refine": Refine,
    "prompt": Prompt,
    "sam": Sam,
    "compose": Compose,
}


def _converter() -> cattrs.Converter:
    """Recipes to plain values and back. Values are passed on unchanged: the validators of their classes check them."""
    converter = cattrs.Converter(detailed_validation=False)  # raises the first error as it is, not in a group
    converter.register_structure_hook_func(lambda kind: not has(kind), lambda value, _: value)
    for primitive in (bool, int, float, str):  # by default cattrs would convert "3" to 3
        converter.register_structure_hook(primitive, lambda value, _: value)
    converter.register_unstructure_hook(Respond, lambda respond: {"fusion": respond.fusion, "view": respond.view, **respond.options})
    converter.register_structure_hook(
        Respond,
        lambda values, _: Respond(values["fusion"], {key: values[key] for key in values if key not in RESERVED}, values["view"]),
    )
    return converter


_CONVERTER = _converter()


def toml_of(values: Mapping[str, object]) -> str:
    """A recipe's plain values as TOML, without those that are None.

    >>> print(toml_of({"name": "mine", "ask": {"template": None, "gate": True}}))
    name = "mine"
    <BLANKLINE>
    [ask]
    gate = true
    <BLANKLINE>
    """
    return tomli_w.dumps({key: _without_none(value) if isinstance(value, Mapping) else value for key, value in values.items()})


def _without_none(table: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in table.items() if value is not None}


def _flat(values: Mapping[str, object]) -> dict[str, object]:
    """Nested tables as dotted keys."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        flat |= {f"{key}.{name}": inner for name, inner in value.items()} if isinstance(value, Mapping) else {key: value}
    return flat


def _recipes_of(loaded: object) -> tuple[Recipe, ...]:
    """The recipes of an entry point."""
    if callable(loaded):
        loaded = loaded()
    if isinstance(loaded, Mapping):
        loaded = loaded.values()
    items = (loaded,) if isinstance(loaded, Recipe) else tuple(loaded) if isinstance(loaded, Iterable) else (loaded,)
    wrong = [item for item in items if not isinstance(item, Recipe)]
    if wrong:
        raise InvalidRecipe(
            f"The entry point yields a {type(wrong[0]).__name__}. "
            "It has to yield a Recipe, several in a list or a mapping, or a function that returns these."
        )
    return items


def _registered_recipes(name: str | None = None) -> dict[str, dict[str, Recipe]]:
    """The registered recipes by name, and under each name by entry point.

    A package may ask for another's recipe while it is being imported. Then entry points are loaded only until that recipe is found: a later
    one might ask for a recipe of the first package, which is not complete yet.
    """
    registered: dict[str, dict[str, Recipe]] = {}
    plugins = packages()
    for entry in sorted(plugins.entries, key=lambda entry: entry.name != name):
        if name in registered and plugins.loading():
            break
        for recipe in plugins.use(entry, _recipes_of) or ():
            registered.setdefault(recipe.name, {})[entry.value] = recipe
    if not registered:
        raise UnknownRecipe(
            f'No recipe is registered under the entry points "{GROUP}". Reinstall the package, which registers its own.{plugins.failures()}'
        )
    return registered


def recipes() -> tuple[str, ...]:
    """The names of all registered recipes, sorted.

    >>> "glyphs" in fseg.recipes()
    True
    """
    return tuple(sorted(_registered_recipes()))


def get_recipe(name: str | Path) -> Recipe:
    """A recipe by its registered name, or from a .toml file.

    Raises:
        UnknownRecipe: no such name, or no such file; the message lists the names, and the packages that could not be loaded.
        InvalidRecipe, InvalidOption, UnknownFusion: the file is not a recipe (see `Recipe.from_toml`), or two packages register different
            recipes of that name.

    >>> fseg.get_recipe("fseg-llava-1.5-vicuna-7b").backbone.checkpoint
    'llava-hf/llava-1.5-7b-hf'
    """
    if not isinstance(name, (str, Path)):
        raise UnknownRecipe(f"{shown(name)} was given for a recipe. Give a Recipe, a registered name or the path of a .toml file.")
    path = Path(name)
    if path.suffix == ".toml":
        if not isfile(path):
            raise UnknownRecipe(
                f'No file "{path}". Write one with Recipe.to_toml(), or name a registered recipe: {_names_without_ablations(_registered_recipes())}.'
            )
        return Recipe.from_toml(_text_of(path))
    registered = _registered_recipes(str(name))
    if str(name) not in registered:
        raise UnknownRecipe(
            f'No recipe "{name}". Registered: {_names_without_ablations(registered)}. A file of your own ends with .toml.{packages().failures()}'
        )
    (first, recipe), *others = registered[str(name)].items()
    for other, its_recipe in others:
        if its_recipe != recipe:
            raise InvalidRecipe(f'Two recipes "{name}": of {first} and of {other}. Rename or uninstall one.')
    return recipe


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRecipe(
            f"The recipe {str(path)!r} cannot be read: {error}. It is a UTF-8 text; Recipe.to_toml() writes one."
        ) from error


def _names_without_ablations(names: Iterable[str]) -> str:
    """The names, sorted, without the rows of ablations, which are many."""
    return ", ".join(sorted(name for name in names if "/" not in name))
