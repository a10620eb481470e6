"""Measures the paper's Tables 2 to 6 on held-out scenes of the glyph world, and writes them with the commands that made them.

    python -m tests.benchmarks.ablations docs/ablations.md --n 200

With --folder it goes on where it was stopped, as `fseg ablate` does.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from fseg.evaluation.report.published import ABLATIONS
from fseg.evaluation.report.tables import ablation_markdown
from fseg.glyphs.make import write_voc
from fseg.result import versions

INTRODUCTION = """# The paper's ablations on the glyph world

Each row turns one switch of the recipe. Our figures are of {images} held-out scenes and the embedded model, recipe `{recipe}`, all classes
asked of each scene. The paper's are of photographs and far larger models: they stand beside ours to compare the order of rows,
not their height. A dash is a row that the paper does not have.

Made by `{command}`
with {versions}.
In the commands below, `data` is what `python -m fseg.glyphs.make data --n {images}` writes.
Use `--dataset voc21`, `--recipe` and `--sam` for the paper's own setting.
"""


def arguments(number: int, root: Path, out: Path, recipe: str) -> list[str]:
    """Of `fseg`, for one table."""
    return ["ablate", str(number), "--dataset", "glyphs", "--root", str(root), "--recipe", recipe, "--out", str(out)]


def measure(number: int, folder: Path, recipe: str, workers: int, threads: int) -> dict[str, Any]:
    """Run one table from the shell, and read its results."""
    out = folder / f"table-{number}"
    command = [*arguments(number, folder / "data", out, recipe), "--workers", str(workers), "--threads", str(threads)]
    typer.echo(f"fseg {shlex.join(command)}", err=True)
    subprocess.run([sys.executable, "-c", "from fseg.cli import main; main()", *command], check=True)
    results: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return results


def section(number: int, results: dict[str, Any], recipe: str) -> str:
    """A table under the command that made it."""
    command = shlex.join(arguments(number, Path("data"), Path(f"runs/table-{number}"), recipe))
    failed = f"\n\n{results['failed']} images failed." if results["failed"] else ""
    return f"## `{ABLATIONS[number].key}`\n\n```bash\nfseg {command}\n```\n\n{ablation_markdown(number, results)}{failed}\n"


def main(
    document: Annotated[Path, typer.Argument(help="The Markdown file to write.")],
    n: Annotated[int, typer.Option("--n", min=1, help="How many held-out scenes.")] = 200,
    tables: Annotated[str, typer.Option(help="Which of the paper's.")] = ",".join(map(str, ABLATIONS)),
    recipe: Annotated[str, typer.Option(help="The recipe whose switches are turned.")] = "glyphs",
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Of each process.")] = 1,
    folder: Annotated[Path | None, typer.Option(help="Keeps the scenes and the runs.")] = None,
) -> None:
    """Measure the ablations and write them down."""
    numbers = [int(number) for number in tables.split(",")]
    with TemporaryDirectory() if folder is None else nullcontext(folder) as place:
        if not (Path(place) / "data").is_dir():
            write_voc(Path(place) / "data", n)
        measured = {number: measure(number, Path(place), recipe, workers, threads) for number in numbers}
    command = f"python -m tests.benchmarks.ablations {document} --n {n} --tables {tables} --recipe {recipe}"
    made_with = ", ".join(f"{name} {version}" for name, version in versions().items())
    opening = INTRODUCTION.format(images=n, recipe=recipe, command=command, versions=made_with)
    document.write_text("\n".join([opening, *(section(number, results, recipe) for number, results in measured.items())]), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
