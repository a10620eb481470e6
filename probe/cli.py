"""The command `probe`: what a model is, whether it is read rightly, pages to look at, and stores of what was read.

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


@app.command()
def view(
    model: Annotated[str, typer.Argument(help="A hub id or a local folder.")],
    image: Annotated[Path, typer.Argument(help="An image.")],
    ask: Annotated[str, typer.Option(help="What the model is asked about it.")],
    out: Annotated[Path, typer.Option(help="The page: one HTML file.")] = Path("page.html"),
    answer: Annotated[str | None, typer.Option(help="The answer that is looked at. Left out: the model's own.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Of the model's own answer.")] = 64,
    tokens: Annotated[int, typer.Option(help="Tokens that have maps, at most; of more, evenly spaced ones.")] = 32,
    layers: Annotated[int, typer.Option(help="Layers that have maps, at most; of more, evenly spaced ones.")] = 40,
    lens: Annotated[bool, typer.Option(help="The likeliest words of each state, by the logit lens.")] = True,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16.")] = None,
    stretch: Annotated[bool, typer.Option("--stretch", help="Resize images directly, without tiles, as the fseg recipes do.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the page if it exists.")] = False,
) -> None:
    """Write a page to look at in a browser: where each token of an answer attends to in the image, in every layer and head.

    Example: probe view llava-hf/llava-1.5-7b-hf cat.jpg --ask "Is there a cat?" --out cat.html --dtype bfloat16 --device cuda
    """
    from probe.views.page.asking import look
    from probe.views.page.shell import check_new

    check_new(out, overwrite=overwrite)
    shown = probe.open_image(image)
    opened = probe.load(model, device=device, dtype=dtype, resize="stretch" if stretch else "processor", tiles=not stretch)
    asked = opened.encode(shown, ask)
    said = opened.generate(asked, max_new_tokens=max_new_tokens) if answer is None else asked.with_answer(answer)
    seen = look(opened, said, lens=lens)
    if seen.no_words_reason:
        typer.echo(f"The page names no likely words: {seen.no_words_reason}", err=True)
    page = probe.views.page(seen.trace, shown, to=out, likely=seen.likely, tokens=tokens, layers=layers, overwrite=overwrite)
    typer.echo(f"{page}  {page.stat().st_size / 1e6:.2f} MB, {said.text!r}")


app.command()(commands.extract)
app.command("store")(commands.show_store)


def main() -> None:
    """The console script."""
    run(app)
