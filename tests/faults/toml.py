"""Damaged recipes: each TOML file gives the recipe that it says, or is refused."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fseg.errors import FsegError
from fseg.recipe import Recipe, get_recipe, recipes
from tests.faults.campaign import Campaign, Outcome


def _trials(n: int, folder: Path, rng: np.random.Generator) -> Iterator[Outcome]:
    path = folder / "recipe.toml"
    whole = [get_recipe(name).to_toml().encode() for name in recipes() if "/" not in name]
    for number in range(n):
        content = bytearray(whole[number % len(whole)])
        for _ in range(int(rng.integers(1, 4))):
            place = int(rng.integers(len(content)))
            match ("flip", "truncate", "splice", "random")[int(rng.integers(4))]:
                case "flip":
                    content[place] ^= 1 << int(rng.integers(8))
                case "truncate":
                    del content[max(place, 1) :]
                case "splice":
                    source = int(rng.integers(len(content)))
                    content[place:place] = content[source : source + int(rng.integers(1, 40))]
                case "random":
                    content[place : place + 4] = rng.bytes(4)
        path.write_bytes(content)
        yield _read(path)


def _read(path: Path) -> Outcome:
    try:
        recipe = get_recipe(path)
    except FsegError:
        return Outcome("refused")
    except Exception as error:  # what a campaign looks for
        return Outcome("raw exception", f"{path.read_bytes()[:200]!r}: {type(error).__name__}: {error}")
    said = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    if _differs(said, recipe):
        return Outcome("another recipe", f"{path.read_bytes()[:200]!r}: read as {recipe}")
    return Outcome("a recipe, as the file says")


def _differs(said: dict[str, object], recipe: Recipe) -> bool:
    """Whether a value that stands in the file is not the recipe's."""
    read = tomllib.loads(recipe.to_toml())
    return any(
        read.get(key) != value if not isinstance(value, dict) else not value.items() <= read[key].items() for key, value in said.items()
    )


CAMPAIGNS = [Campaign("recipe-toml", "TOML files of recipes with bits flipped, cut, spliced, overwritten", 4000, 100, _trials)]
