"""What the project is held to, each with one command: `nox -s lint types tests`."""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests"]
PINNED = ("--constraint", "constraints.txt")


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules and format, and the floors of the house."""
    session.install("ruff", "import-linter")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict, over the three packages."""
    session.install(*PINNED, "--editable", ".[test]")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as a site in build/site; a broken link is an error."""
    session.install(*PINNED, "--editable", ".[docs]")
    session.run("mkdocs", "build", "--strict", "--site-dir", "build/site")


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """The README's test command; `nox -s tests -- -m slow` runs the slow tests."""
    session.install(*PINNED, "--editable", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """The lowest versions that the ranges of pyproject.toml allow."""
    session.install("uv")
    session.run("uv", "pip", "install", "--python", session.virtualenv.location, "--resolution", "lowest-direct", "--editable", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def newest(session: nox.Session) -> None:
    """The newest versions that the ranges allow, transformers' next release included. Allowed to fail, and worth a look when it does."""
    session.install("--pre", "--upgrade", "transformers")
    session.install("--editable", ".[test]")
    session.run("pytest", *session.posargs, success_codes=[0, 1])


@nox.session
def coverage(session: nox.Session) -> None:
    """Lines of probe and fseg under test: at least 95 %."""
    session.install(*PINNED, "--editable", ".[test]")
    session.run("pytest", "-m", "slow or not slow", "--cov=probe", "--cov=fseg", "--cov-report=term", "--cov-fail-under=95")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel, install it into an empty environment, and run the demo from another folder."""
    session.install("build")
    built = Path(session.create_tmp()) / "dist"
    session.run("python", "-m", "build", "--wheel", "--outdir", str(built))
    session.install(*PINNED, *map(str, built.glob("*.whl")))
    session.chdir(session.create_tmp())
    session.run("fseg", "demo")
