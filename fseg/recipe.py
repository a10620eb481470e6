"""Recipes: a chain of stages as data, by name, as TOML, and with changes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from fseg import toml
from fseg.errors import InvalidOption, InvalidRecipe, UnknownRecipe
from fseg.fusion import get_fusion
from fseg.stages.compose import Compose
from fseg.stages.prompts import Prompt
from fseg.stages.qap import Ask
from fseg.stages.sam import Sam
from fseg.stages.tvr import Respond
from fseg.stages.vgm import Refine

GROUP = "fseg.recipes"
STAGES: dict[str, type[Any]] = {"ask": Ask, "respond": Respond, "refine": Refine, "prompt": Prompt, "sam": Sam, "compose": Compose}


@dataclass(frozen=True)
class Recipe:
    """A chain of stages.

    Attributes:
        name: what it is called, and what results are labelled with.
        backbone: a hub id, a folder, or "glyphs" for the embedded model.
        ask: which classes are there (QAP).
        respond: one response map a class (TVR).
        refine: from responses to masks on the grid (VGM).
        prompt: from masks to points and boxes.
        sam: from points and boxes to masks on the image.
        compose: from masks to labels.
    """

    name: str
    backbone: str
    ask: Ask = field(default_factory=Ask)
    respond: Respond = field(default_factory=Respond)
    refine: Refine = field(default_factory=Refine)
    prompt: Prompt = field(default_factory=Prompt)
    sam: Sam = field(default_factory=Sam)
    compose: Compose = field(default_factory=Compose)

    def __post_init__(self) -> None:
        for name in ("name", "backbone"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise InvalidOption(f"{name}={getattr(self, name)!r}: takes a text that is not empty.")

    def keys(self) -> tuple[str, ...]:
        """All keys that `with_` takes, those of the fusion's options among them."""
        return tuple(_flat(self.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values: a table for each stage, with the fusion's options in the respond table."""
        tables = {stage: {f.name: getattr(getattr(self, stage), f.name) for f in fields(STAGES[stage])} for stage in STAGES}
        tables["respond"] = {"fusion": self.respond.fusion, **self.respond.options}
        return {"name": self.name, "backbone": self.backbone, **tables}

    def with_(self, changes: Mapping[str, object]) -> Recipe:
        """A recipe with some values changed.

        Args:
            changes: dotted keys, as in `{"respond.layers": (7, 17), "prompt.kind": "box"}`. With another `respond.fusion`, the options that
                it shares with the present one keep their values, and the others take its defaults.

        Raises:
            InvalidRecipe: a key that the recipe does not have; the message lists those that it has.
            InvalidOption: a value that its field does not take.
        """
        fusion = get_fusion(str(changes.get("respond.fusion", self.respond.fusion)))
        kept = {name: value for name, value in self.respond.options.items() if name in fusion.defaults}
        base = replace(self, respond=Respond(fusion.name, kept))
        known = base.keys()
        unknown = [key for key in changes if key not in known]
        if unknown:
            raise InvalidRecipe(f"No key {unknown[0]!r} in a recipe with the fusion {fusion.name!r}. Keys: {', '.join(known)}.")
        tables = base.to_dict()
        for key, value in changes.items():
            stage, _, name = key.rpartition(".")
            (tables[stage] if stage else tables)[name] = value
        return _from_tables(tables)

    def to_toml(self) -> str:
        """The recipe as TOML; `from_toml` gives it back exactly."""
        return toml.dumps(self.to_dict())

    @classmethod
    def from_toml(cls, text: str) -> Recipe:
        """A recipe from TOML. What is left out takes its default.

        Raises:
            InvalidRecipe: not TOML, no name or backbone, or a key that a recipe does not have.
            InvalidOption: a value that its field does not take.
        """
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InvalidRecipe(f"Not TOML: {error}. Recipe.to_toml() writes one to start from.") from error
        missing = [key for key in ("name", "backbone") if key not in tables]
        if missing:
            raise InvalidRecipe(f"A recipe needs {' and '.join(missing)}; this one has {', '.join(tables) or 'nothing'}.")
        flat_stages = [stage for stage in STAGES if not isinstance(tables.get(stage, {}), dict)]
        if flat_stages:
            raise InvalidRecipe(f"{flat_stages[0]} is a table of a recipe: write [{flat_stages[0]}] and its keys below it.")
        bare = cls(tables["name"], tables["backbone"], respond=Respond(tables.get("respond", {}).get("fusion", Respond().fusion)))
        return bare.with_(_flat(tables))


def _flat(tables: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        flat |= {f"{key}.{name}": inner for name, inner in value.items()} if isinstance(value, Mapping) else {key: value}
    return flat


def _from_tables(tables: Mapping[str, Any]) -> Recipe:
    options = {name: value for name, value in tables["respond"].items() if name != "fusion"}
    stages = {stage: kind(**tables[stage]) for stage, kind in STAGES.items() if stage != "respond"}
    return Recipe(tables["name"], tables["backbone"], respond=Respond(tables["respond"]["fusion"], options), **stages)


def _recipes_of(entry: EntryPoint) -> list[Recipe]:
    found = entry.load()
    if callable(found):
        found = found()
    if isinstance(found, Mapping):
        found = found.values()
    shelf = [found] if isinstance(found, Recipe) else list(found) if isinstance(found, Iterable) else [found]
    wrong = [item for item in shelf if not isinstance(item, Recipe)]
    if wrong:
        raise InvalidRecipe(
            f'The entry point {entry.name} = "{entry.value}" yields a {type(wrong[0]).__name__}. '
            "It has to yield a Recipe, several in a list or a mapping, or a function that returns these."
        )
    return shelf


def _shelf() -> dict[str, Recipe]:
    """Every registered recipe by name."""
    shelf: dict[str, Recipe] = {}
    owner: dict[str, str] = {}
    for entry in entry_points(group=GROUP):
        for recipe in _recipes_of(entry):
            if recipe.name in shelf and shelf[recipe.name] != recipe:
                raise InvalidRecipe(f'Two recipes "{recipe.name}": of {owner[recipe.name]} and of {entry.value}. Rename or uninstall one.')
            shelf[recipe.name] = recipe
            owner[recipe.name] = entry.value
    if not shelf:
        raise UnknownRecipe(f'No recipe is registered under the entry points "{GROUP}". Reinstall the package, which registers its own.')
    return shelf


def recipes() -> tuple[str, ...]:
    """The names of all registered recipes."""
    return tuple(sorted(_shelf()))


def get_recipe(name: str | Path) -> Recipe:
    """A recipe by its registered name, or from a .toml file.

    Raises:
        UnknownRecipe: no such name, or no such file; the message lists the names.
    """
    path = Path(name)
    if path.suffix == ".toml":
        if not path.is_file():
            raise UnknownRecipe(f'No file "{path}". Write one with Recipe.to_toml(), or name a registered recipe: {_names(_shelf())}.')
        return Recipe.from_toml(path.read_text(encoding="utf-8"))
    shelf = _shelf()
    if str(name) not in shelf:
        raise UnknownRecipe(f'No recipe "{name}". Registered: {_names(shelf)}. A file of your own ends with .toml.')
    return shelf[str(name)]


def _names(shelf: Iterable[str]) -> str:
    """Those that are not rows of an ablation, which are many."""
    return ", ".join(sorted(name for name in shelf if "/" not in name))
