"""The paper's ablations (Tables 2 to 6) as recipes: each row changes one key. `fseg.evaluation.report.published` has the printed figures."""

from __future__ import annotations

from fseg.evaluation.report.ablations import ablation
from fseg.evaluation.report.published import ABLATIONS as TABLES
from fseg.evaluation.report.published import Row, Table
from fseg.recipe import Recipe
from recipes.paper import LLAVA_1_5_VICUNA_7B, LLAVA_1_6_VICUNA_7B

__all__ = ["TABLES", "Row", "Table", "rows", "table"]


def table(number: int, base: Recipe = LLAVA_1_5_VICUNA_7B) -> dict[str, Recipe]:
    """The rows of a table as recipes derived from `base`, by the rows' names.

    Raises:
        UnknownRecipe: the paper has no such ablation.

    >>> list(table(4))
    ['point', 'box', 'both']
    """
    return ablation(number, base)


def rows() -> list[Recipe]:
    """Every row of every table, for the two models that the paper ablates."""
    return [recipe for base in (LLAVA_1_5_VICUNA_7B, LLAVA_1_6_VICUNA_7B) for number in TABLES for recipe in table(number, base).values()]
