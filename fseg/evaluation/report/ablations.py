"""The rows of the paper's ablations as recipes, for the paper's models and for others."""

from __future__ import annotations

from collections.abc import Mapping

from fseg.checkpoints import backbone_path
from fseg.errors import UnknownRecipe
from fseg.evaluation.report.published import ABLATIONS, BANDS, band_name
from fseg.recipe import Recipe
from probe.errors import LoadError

LAYERS_TABLE = 3
BAND = 3
"""Layers in each row of Table 3 for a model that is less deep than the paper's."""


def ablation(number: int, base: Recipe) -> dict[str, Recipe]:
    """The rows of a table as recipes made from `base`, by the rows' names.

    Raises:
        UnknownRecipe: the paper has no such ablation.
    """
    if number not in ABLATIONS:
        raise UnknownRecipe(f"Table {number} is no ablation of the paper. Ablations: {', '.join(map(str, ABLATIONS))}.")
    table = ABLATIONS[number]
    return {name: row_recipe(number, base, name, row.value) for name, row in table.rows.items()}


def row_recipe(number: int, base: Recipe, name: str, value: object) -> Recipe:
    """One row of a table, named after it."""
    return base.with_({ABLATIONS[number].key: value, "name": f"{base.name}/table-{number}/{name}"})


def ablation_rows(number: int, base: Recipe, backbone: str | None = None) -> dict[str, Recipe]:
    """The recipes of a table's rows.

    For a model without the paper's layers, the rows of Table 3 are all bands of three of its layers.

    Args:
        backbone: instead of the recipe's, as `Segmenter` takes it by name.

    Raises:
        UnknownRecipe: the paper has no such ablation.
    """
    rows = ablation(number, base)
    if number != LAYERS_TABLE:
        return rows
    last = depth(backbone or base.backbone.checkpoint)
    if all(deepest <= last for _, deepest in BANDS):
        return rows
    bands = [(first, first + BAND - 1) for first in range(last + 2 - BAND)]
    return {band_name(band): row_recipe(number, base, band_name(band), band) for band in bands}


def depth(backbone: str) -> int:
    """The index of a model's last hidden state, from its configuration alone.

    Code that comes with a model is not run.

    Raises:
        LoadError: there is no such configuration, it does not say, or code of its own would have to be run to read it.
    """
    from transformers import AutoConfig  # the shelf of recipes imports this module, and needs no transformers

    try:
        return int(AutoConfig.from_pretrained(backbone_path(backbone), trust_remote_code=False).get_text_config().num_hidden_layers)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        if "trust_remote_code" in str(error):
            raise LoadError(
                f"How many layers {backbone} has cannot be read without running Python code that comes with it, which is not done. "
                "Name a model whose architecture transformers knows, by --backbone."
            ) from error
        reason = str(error).strip().partition("\n")[0]
        raise LoadError(
            f"How many layers {backbone} has cannot be read: {reason} Check the name, or give a folder by --backbone."
        ) from error


def passes(rows: Mapping[str, Recipe]) -> int:
    """Forwards over an image for all rows together: one for each way of asking."""
    return len({recipe.ask for recipe in rows.values()})
