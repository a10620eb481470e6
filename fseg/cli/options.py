"""Options that several commands share: which recipe, which models, where they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fseg.errors import InvalidClasses, OutputError
from fseg.labels.values import IGNORED

MOST_CLASSES = IGNORED
"""A palette PNG has 256 values, and 0 is the background."""


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
ClassesOption = Annotated[str | None, typer.Option(help='Class names, separated by commas: "cat,potted plant".')]
ClassesFileOption = Annotated[Path | None, typer.Option(help="One class a line, followed by its synonyms after commas.")]
AssumeOption = Annotated[
    bool, typer.Option("--assume-present", help="Do not ask whether a class is present: have the model describe each one.")
]


def classes_of(listed: str | None, file: Path | None) -> dict[str, tuple[str, ...]]:
    """The names that each class is asked about by.

    Args:
        listed, file: of --classes and --classes-file.

    Raises:
        InvalidClasses: not one of the two was given, or there are too many classes, or see `fseg.vocabulary.classes`.
    """
    from fseg.vocabulary.classes import check_classes, read_classes

    if (listed is None) == (file is None):
        raise InvalidClasses("Name the classes by --classes a,b or by --classes-file FILE, one of them.")
    names = read_classes(file) if file is not None else check_classes([name.strip() for name in (listed or "").split(",")])
    if len(names) > MOST_CLASSES:
        raise InvalidClasses(f"{len(names)} classes were given; labels.png has room for {MOST_CLASSES}. Segment in two runs.")
    return names
