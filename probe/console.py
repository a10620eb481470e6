"""How the console scripts end when something went wrong: one message and an exit code, without a traceback."""

from __future__ import annotations

import os
import signal
import sys
from importlib.metadata import version
from typing import Annotated, Any, ClassVar, NoReturn

import typer
from typer.core import TyperGroup

from probe.errors import ProbeError

INTERRUPTED = 128 + signal.SIGINT
"""The exit code of a program that Ctrl-C ended, as shells know it: 130."""


DISTRIBUTION = "fseg-llava"


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"{DISTRIBUTION} {version(DISTRIBUTION)}")
        raise typer.Exit


VersionOption = Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")]


class Commands(TyperGroup):
    """The commands of a script. Ctrl-C ends each of them with one line, at once."""

    resumable: ClassVar[frozenset[str]] = frozenset()
    """Commands that go on where they stopped when they are started again."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _end_interrupted(goes_on=ctx.invoked_subcommand in self.resumable)


def _end_interrupted(*, goes_on: bool = False) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    again = "goes on from there" if goes_on else "starts from the beginning"
    typer.echo(f"Interrupted. What is finished is kept; the same command {again}.", err=True)
    sys.stdout.flush()
    os._exit(INTERRUPTED)  # without the seconds that the interpreter takes to tear torch down


def run(app: typer.Typer) -> None:
    """Run a console script; an error of ours is printed as one message, with exit code 2."""
    try:
        app()
    except ProbeError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:  # while the command line was read
        _end_interrupted()
