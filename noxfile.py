"""What the project is held to, each with one command: `nox -s lint types tests`."""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "types", "tests"]
PINNED = ("--constraint", "constraints.txt")


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules and format."""
    session.install("ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict, over the three packages."""
    session.install(*PINNED, "--editable", ".[test]")
    session.run("mypy")


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """The README's test command; `nox -s tests -- -m slow` runs the slow ones."""
    session.install(*PINNED, "--editable", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def newest(session: nox.Session) -> None:
    """The newest versions that the ranges allow: allowed to fail, and worth a look when it does."""
    session.install("--editable", ".[test]")
    session.run("pytest", *session.posargs, success_codes=[0, 1])
