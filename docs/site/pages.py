"""Writes the pages that are made from the code: a page for each public name, the errors with their cures, the notebooks."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import ModuleType

import mkdocs_gen_files

ROOT = Path(__file__).parents[2]
DOORS = ("probe", "probe.edit", "probe.views", "fseg", "fseg.glyphs", "fseg.stickers")
"""The modules whose names are public."""


def public(module: ModuleType) -> list[str]:
    """The names of a module that have a page: classes, functions and values, not modules."""
    names = getattr(module, "__all__", [])
    return sorted(name for name in names if not name.startswith("_") and not inspect.ismodule(getattr(module, name)))


def write_reference() -> None:
    """`reference/MODULE/NAME.md`, and the list of them for the navigation."""
    lines = []
    for door in DOORS:
        lines.append(f"- {door}")
        for name in public(importlib.import_module(door)):
            page = f"{door}/{name}.md"
            with mkdocs_gen_files.open(f"reference/{page}", "w") as file:
                file.write(f"# `{door}.{name}`\n\n::: {door}.{name}\n")
            lines.append(f"    - [{name}]({page})")
    lines.append("- [errors](../troubleshooting.md)")
    with mkdocs_gen_files.open("reference/SUMMARY.md", "w") as file:
        file.write("\n".join(lines) + "\n")


def errors_of(module: ModuleType) -> list[type[Exception]]:
    """The exception classes that a module defines, in the alphabet."""
    found = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, Exception)]
    return sorted((one for one in found if one.__module__ == module.__name__), key=lambda one: one.__name__)


def write_troubleshooting() -> None:
    """Every exception with its cause and its cure, from the classes' docstrings."""
    import fseg.errors
    import probe.errors

    lines = ["# Troubleshooting", "", "Every error says what was asked, what is there, and what to do next. These are their kinds.", ""]
    for module in (probe.errors, fseg.errors):
        lines += [f"## `{module.__name__}`", "", "| error | cause | cure |", "|---|---|---|"]
        for error in errors_of(module):
            cause, _, cure = inspect.getdoc(error).partition("\n\nCure: ")  # type: ignore[union-attr]  # each has one, a test says
            if cure:
                cells = [" ".join(part.split("\n\n")[0].split()).replace("|", "\\|") for part in (cause, cure)]
                lines.append(f"| `{error.__name__}` | {cells[0]} | {cells[1][0].upper()}{cells[1][1:]} |")
        lines.append("")
    with mkdocs_gen_files.open("troubleshooting.md", "w") as file:
        file.write("\n".join(lines))


def write_notebooks() -> None:
    """The executed notebooks of `examples`, with their output."""
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        with mkdocs_gen_files.open(f"examples/{path.name}", "w") as file:
            file.write(path.read_text(encoding="utf-8"))


write_reference()
write_troubleshooting()
write_notebooks()
