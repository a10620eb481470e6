"""Console scripts: how they print the version, and how they end after an error or Ctrl-C, without a traceback."""

from __future__ import annotations

import os
import signal
import sys
from importlib.metadata import version
from typing import Annotated, ClassVar, NoReturn

import typer
from typer.core import TyperGroup

from probe.errors import ProbeError

INTERRUPTED = 128 + signal.SIGINT
"""The exit code that shells give a program ended by Ctrl-C: 130."""


DISTRIBUTION = "fseg-llava"


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"{DISTRIBUTION} {version(DISTRIBUTION)}")
        raise typer.Exit


VersionOption = Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")]


class Commands(TyperGroup):
    """The commands of a script. Ctrl-C ends each of them at once, with one line."""

    resumable: ClassVar[frozenset[str]] = frozenset()
    """Commands that continue an interrupted run when they are started again."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]  # the base class of typer.Context is private
        """Run the command that the arguments name."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _end_interrupted(resumable=ctx.invoked_subcommand in self.resumable)


def _end_interrupted(*, resumable: bool = False) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    again = "goes on from there" if resumable else "starts from the beginning"
    typer.echo(f"Interrupted. What is finished is kept; the same command {again}.", err=True)
    sys.stdout.flush()
    os._exit(INTERRUPTED)  # skips the interpreter's shutdown, which takes seconds once torch is imported


def run(app: typer.Typer) -> None:
    """Run a console script; one of our errors is printed as one message, with exit code 2."""
    try:
        app()
    except ProbeError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:  # before a command began
        _end_interrupted()
