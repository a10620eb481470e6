"""The recipe and the models that a command's options name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fseg.pipeline import Segmenter
    from fseg.recipe import Recipe


def open_segmenter(
    recipe: str,
    imports: Sequence[str] | None,
    *,
    assume_present: bool,
    backbone: str | None,
    sam: str | None,
    device: str | None,
    dtype: str | None,
) -> Segmenter:
    """A segmenter from the options of a command.

    Raises:
        ImportFailed: a module of `imports` fails.
        UnknownRecipe, InvalidRecipe, LoadError, DeviceNotFound, InvalidSam: see `get_recipe` and `Segmenter`.
    """
    from fseg.pipeline import Segmenter

    chosen = recipe_of(recipe, imports)
    if assume_present:
        chosen = chosen.with_({"ask.presence": "assume"})
    hide_loading_bars()
    return Segmenter(chosen, backbone=backbone, sam=sam, device=device, dtype=dtype)


def recipe_of(name: str, imports: Sequence[str] | None) -> Recipe:
    """The recipe of this name or file; modules that register its fusion are imported first.

    Raises:
        ImportFailed: a module of `imports` fails.
        UnknownRecipe, InvalidRecipe, InvalidOption, UnknownFusion: see `get_recipe`.
    """
    from fseg.plugins import import_named
    from fseg.recipe import get_recipe

    import_named(imports or ())
    return get_recipe(name)


def hide_loading_bars() -> None:
    """Turn off transformers' own progress bars, those of loading weights. Ours count images."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
