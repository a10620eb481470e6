"""`fseg`: segment images, run the embedded model, draw the paper's figures, evaluate recipes.

The modules of this package import torch and transformers inside the functions that need them, so that `--help`, `--version` and a
mistyped option answer at once. A test checks it (tests/unit/fseg/cli/test_startup.py).
"""

from __future__ import annotations

import io
import sys

import typer

from fseg.cli.demo import demo_command
from fseg.cli.doctor import doctor_command
from fseg.cli.listing import datasets_command, recipes_command, table_command
from fseg.cli.pictures.figure import figure_command
from fseg.cli.pictures.view import view_command
from fseg.cli.segment import segment_command
from fseg.cli.sets.calibrate import calibrate_command
from fseg.cli.sets.compare import compare_command
from fseg.cli.sets.evaluate import ablate_command, eval_command, merge_command
from fseg.cli.sets.heads import heads_command
from probe.console import Commands, VersionOption, run


class FsegCommands(Commands):
    """The commands of `fseg`."""

    resumable = frozenset({"eval", "ablate", "compare", "calibrate", "heads"})


app = typer.Typer(
    cls=FsegCommands,
    no_args_is_help=True,
    help="FSeg-LLaVA: ask a multimodal language model which classes are in an image, and segment them. Start with: fseg demo",
)


@app.callback()
def begin(version: VersionOption = False) -> None:
    # File names need not be UTF-8, and a model may answer in any script: neither may stop the command that prints them.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


app.command("demo")(demo_command)
app.command("segment")(segment_command)
app.command("view")(view_command)
app.command("figure")(figure_command)
app.command("doctor")(doctor_command)
app.command("recipes")(recipes_command)
app.command("datasets")(datasets_command)
app.command("eval")(eval_command)
app.command("merge")(merge_command)
app.command("ablate")(ablate_command)
app.command("compare")(compare_command)
app.command("calibrate")(calibrate_command)
app.command("heads")(heads_command)
app.command("table")(table_command)


def main() -> None:
    """Run the console script."""
    run(app)
