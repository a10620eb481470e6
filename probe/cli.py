"""The command `probe`: what a model is, whether it is read rightly, and stores of what was read.

The commands import what they need when they run, so that help and version come without torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import probe
from probe.console import Commands, VersionOption, run
from probe.store import commands


class _Commands(Commands):
    resumable = frozenset({"extract"})


app = typer.Typer(cls=_Commands, no_args_is_help=True, help="Look inside a Hugging Face multimodal model.")


@app.callback()
def _probe(version: VersionOption = False) -> None:
    """Look inside a Hugging Face multimodal model."""


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="A hub id, such as llava-hf/llava-1.5-7b-hf, or a local folder.")],
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16, float16. Left out: float32 on the CPU, else the checkpoint's.")
    ] = None,
) -> None:
    """Print what a model is, and what can be read from it and where.

    Example: probe inspect llava-hf/llava-1.5-7b-hf --dtype bfloat16
    """
    typer.echo(probe.load(model, device=device, dtype=dtype).inspect())


@app.command()
def verify(
    model: Annotated[str, typer.Argument(help="A hub id or a local folder.")],
    image: Annotated[Path | None, typer.Option(help="An image; left out: noise.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16.")] = None,
    stretch: Annotated[bool, typer.Option("--stretch", help="Resize images directly, without tiles, as the fseg recipes do.")] = False,
) -> None:
    """Compare every kind of read with plain Hugging Face, and the grid with the image. Exits with 1 if anything differs.

    Example: probe verify llava-hf/llava-1.5-7b-hf --image cat.jpg --dtype bfloat16 --device cuda
    """
    opened = probe.load(model, device=device, dtype=dtype, resize="stretch" if stretch else "processor", tiles=not stretch)
    report = probe.verify(opened, image)
    typer.echo(report)
    if not report.passed:
        raise typer.Exit(1)


app.command()(commands.extract)
app.command("store")(commands.show_store)


def main() -> None:
    """The console script."""
    run(app)
