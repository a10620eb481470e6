"""The paper's ablations (Tables 2 to 6): each row is one switch of a recipe, with the figures that the paper prints beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fseg.errors import UnknownRecipe
from fseg.recipe import Recipe
from recipes.paper import LLAVA_1_5_VICUNA_7B, LLAVA_1_6_VICUNA_7B


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        value: what the table's switch is set to.
        printed: mIoU on VOC21 in percent, of LLaVA-1.5 and of LLaVA-1.6 with Vicuna-7B.
    """

    value: object
    printed: tuple[float, float]


@dataclass(frozen=True)
class Table:
    """A table: the recipe's key that it varies, and its rows by name, in the paper's order."""

    key: str
    rows: Mapping[str, Row]


def _bands(printed: Mapping[tuple[int, int], tuple[float, float]]) -> dict[str, Row]:
    return {f"{first}-{last}": Row((first, last), figures) for (first, last), figures in printed.items()}


def _words(printed: Mapping[str, tuple[float, float]]) -> dict[str, Row]:
    return {word: Row(word, figures) for word, figures in printed.items()}


TABLES: dict[int, Table] = {
    2: Table("ask.question", _words({"photo": (67.9, 65.7), "contain": (67.1, 62.4), "class": (68.0, 65.9)})),
    3: Table(
        "respond.layers",
        _bands({
            (5, 9): (63.7, 64.5),
            (7, 9): (65.8, 64.6),
            (7, 11): (66.7, 65.8),
            (7, 13): (68.0, 65.9),
            (7, 17): (66.8, 65.2),
            (10, 13): (67.6, 64.4),
            (15, 22): (49.1, 55.8),
            (22, 30): (15.2, 19.7),
        }),
    ),
    4: Table("prompt.kind", _words({"point": (61.4, 59.5), "box": (57.8, 56.6), "both": (68.0, 65.9)})),
    5: Table("respond.fusion", _words({"D": (67.3, 65.6), "M_A": (27.3, 34.7), "D*M_A": (68.0, 65.9)})),
    6: Table("refine.mask", _words({"M_v": (48.4, 60.0), "M^_f": (67.3, 65.1), "both": (68.0, 65.9)})),
}


def table(number: int, base: Recipe = LLAVA_1_5_VICUNA_7B) -> dict[str, Recipe]:
    """The rows of a table as recipes made from `base`, by the rows' names.

    Raises:
        UnknownRecipe: the paper has no such ablation.
    """
    if number not in TABLES:
        raise UnknownRecipe(f"Table {number} is no ablation of the paper. Ablations: {', '.join(map(str, TABLES))}.")
    key, rows = TABLES[number].key, TABLES[number].rows
    return {row: replace(base.with_({key: rows[row].value}), name=f"{base.name}/table-{number}/{row}") for row in rows}


def rows() -> list[Recipe]:
    """Every row of every table, for the two models that the paper ablates."""
    return [recipe for base in (LLAVA_1_5_VICUNA_7B, LLAVA_1_6_VICUNA_7B) for number in TABLES for recipe in table(number, base).values()]
