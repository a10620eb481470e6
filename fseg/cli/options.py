"""Options that several commands share: which recipe, which models, where they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fseg.errors import OutputError


def output_path(text: str) -> Path:
    """The path of an --out.

    Raises:
        OutputError: it is empty, which would mean the current folder.
    """
    if not text:
        raise OutputError("--out is empty. Name a folder or a file; . is the current folder.")
    return Path(text)


ImportOption = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        help="Code that registers your own fusions: an installed module or a .py file, imported before the recipe is read. Repeatable.",
        metavar="MODULE_OR_FILE",
    ),
]
RecipeOption = Annotated[str, typer.Option(help="A registered recipe (see `fseg recipes`) or a .toml file.")]
BackboneOption = Annotated[str | None, typer.Option(help="Instead of the recipe's model: a hub id or a local folder.", metavar="ID_OR_DIR")]
SamOption = Annotated[
    str | None, typer.Option(help="Instead of the recipe's SAM: a hub id, a folder, or a .pth or .safetensors file.", metavar="ID_OR_FILE")
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.")]
DtypeOption = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16, for the language model.")]
AssumeOption = Annotated[
    bool, typer.Option("--assume-present", help="Do not ask whether a class is present: have the model describe each one.")
]
