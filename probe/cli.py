"""`probe`: look at a model from the shell."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from probe.errors import ProbeError
from probe.model import load

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Look inside a Hugging Face multimodal model.")


@app.callback()
def _probe() -> None:
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
    typer.echo(load(model, device=device, dtype=dtype).inspect())


def main() -> None:
    """The console script: our errors are printed as one message, without a traceback."""
    try:
        app()
    except ProbeError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(2)
