"""Recipes: a chain of stages as data, by name, as TOML, and with changes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from os.path import isfile
from pathlib import Path
from typing import Any

from fseg import toml
from fseg.checks import shown, text
from fseg.errors import InvalidRecipe, UnknownRecipe
from fseg.fusions.registry import get_fusion
from fseg.plugins import GROUP, packages
from fseg.stages.compose import Compose
from fseg.stages.prompts import Prompt
from fseg.stages.qap import Ask
from fseg.stages.segment import Sam
from fseg.stages.tvr import Respond
from fseg.stages.vgm import Refine

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
        text("name", self.name)
        text("backbone", self.backbone)
        for stage, kind in STAGES.items():
            if not isinstance(getattr(self, stage), kind):
                raise InvalidRecipe(f"{stage}={shown(getattr(self, stage))}: that stage of a recipe is a {kind.__name__}.")

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
            InvalidOption, UnknownFusion: a value that its field does not take.
        """
        if not isinstance(changes, Mapping):
            raise InvalidRecipe(f"Changes of a recipe are a mapping, such as {{'prompt.kind': 'box'}}, not {shown(changes)}.")
        fusion = get_fusion(changes.get("respond.fusion", self.respond.fusion))  # type: ignore[arg-type]  # it checks what it is given
        kept = {name: value for name, value in self.respond.options.items() if name in fusion.defaults}
        base = replace(self, respond=Respond(fusion.name, kept))
        known = base.keys()
        unknown = [key for key in changes if key not in known]
        if unknown:
            raise InvalidRecipe(f"No key {shown(unknown[0])} in a recipe with the fusion {fusion.name!r}. Keys: {', '.join(known)}.")
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
            InvalidOption, UnknownFusion: a value that its field does not take.
        """
        if not isinstance(text, str):
            raise InvalidRecipe(f"A recipe is read from text, not from {shown(text)}. get_recipe(path) opens a file.")
        try:
            tables = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
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


def _recipes_of(found: object) -> tuple[Recipe, ...]:
    """The recipes that an entry point brings."""
    if callable(found):
        found = found()
    if isinstance(found, Mapping):
        found = found.values()
    brought = (found,) if isinstance(found, Recipe) else tuple(found) if isinstance(found, Iterable) else (found,)
    wrong = [item for item in brought if not isinstance(item, Recipe)]
    if wrong:
        raise InvalidRecipe(
            f"it yields a {type(wrong[0]).__name__}. "
            "It has to yield a Recipe, several in a list or a mapping, or a function that returns these."
        )
    return brought


def _shelf(wanted: str | None = None) -> dict[str, dict[str, Recipe]]:
    """The registered recipes by name, and under each name by the entry point that brings them.

    While a package of the group is being imported, no more of the others is loaded than it takes to find the recipe that it wants: they
    may want one of its own in turn, which it does not have yet.
    """
    shelf: dict[str, dict[str, Recipe]] = {}
    plugins = packages()
    for entry in sorted(plugins.entries, key=lambda entry: entry.name != wanted):
        if wanted in shelf and plugins.loading():
            break
        for recipe in plugins.use(entry, _recipes_of) or ():
            shelf.setdefault(recipe.name, {})[entry.value] = recipe
    if not shelf:
        raise UnknownRecipe(
            f'No recipe is registered under the entry points "{GROUP}". Reinstall the package, which registers its own.{plugins.failures()}'
        )
    return shelf


def recipes() -> tuple[str, ...]:
    """The names of all registered recipes."""
    return tuple(sorted(_shelf()))


def get_recipe(name: str | Path) -> Recipe:
    """A recipe by its registered name, or from a .toml file.

    Raises:
        UnknownRecipe: no such name, or no such file; the message lists the names, and the packages that could not be loaded.
        InvalidRecipe, InvalidOption, UnknownFusion: the file holds no recipe (see `Recipe.from_toml`), or two packages bring one of that name.
    """
    if not isinstance(name, (str, Path)):
        raise UnknownRecipe(f"{shown(name)} was given for a recipe. Give a Recipe, a registered name or the path of a .toml file.")
    path = Path(name)
    if path.suffix == ".toml":
        if not isfile(path):
            raise UnknownRecipe(f'No file "{path}". Write one with Recipe.to_toml(), or name a registered recipe: {_names(_shelf())}.')
        return Recipe.from_toml(_text_of(path))
    shelf = _shelf(str(name))
    if str(name) not in shelf:
        raise UnknownRecipe(f'No recipe "{name}". Registered: {_names(shelf)}. A file of your own ends with .toml.{packages().failures()}')
    (first, found), *others = shelf[str(name)].items()
    for other, recipe in others:
        if recipe != found:
            raise InvalidRecipe(f'Two recipes "{name}": of {first} and of {other}. Rename or uninstall one.')
    return found


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRecipe(
            f"The recipe {str(path)!r} cannot be read: {error}. It is a UTF-8 text; Recipe.to_toml() writes one."
        ) from error


def _names(shelf: Iterable[str]) -> str:
    """Those that are not rows of an ablation, which are many."""
    return ", ".join(sorted(name for name in shelf if "/" not in name))
