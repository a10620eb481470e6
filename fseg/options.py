"""Options that several commands of `fseg` have: which recipe, which models, where they run."""

from __future__ import annotations

from typing import Annotated

import typer

RecipeOption = Annotated[str, typer.Option(help="A registered recipe (see `fseg recipes`) or a .toml file.")]
BackboneOption = Annotated[str | None, typer.Option(help="Instead of the recipe's model: a hub id or a local folder.", metavar="ID_OR_DIR")]
SamOption = Annotated[
    str | None, typer.Option(help="Instead of the recipe's SAM: a hub id, a folder, or a .pth or .safetensors file.", metavar="ID_OR_FILE")
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.")]
DtypeOption = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16, for the language model.")]
