"""The laws of the house that can be checked by reading: who imports whom, how long a file is, where the one trace stands."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOOR = {"probe": 0, "fseg": 1, "recipes": 2}
FILES = sorted(path for room in FLOOR for path in (ROOT / room).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The top-level packages that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0] if node.level == 0 else path.relative_to(ROOT).parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    floor = FLOOR[path.relative_to(ROOT).parts[0]]
    assert [name for name in imported(path) if FLOOR.get(name, -1) > floor] == []


def test_no_stage_imports_another_stage() -> None:
    stages = {path.stem for path in (ROOT / "fseg/stages").glob("*.py")} - {"__init__"}
    for path in (ROOT / "fseg/stages").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {f"fseg.stages.{stage}" for stage in stages} & modules, path


def test_files_are_one_room_each() -> None:
    long = {str(path.relative_to(ROOT)): lines for path in FILES if (lines := path.read_text(encoding="utf-8").count("\n")) > 400}
    assert long == {}


def test_nnsight_is_imported_in_one_file() -> None:
    assert [str(path.relative_to(ROOT)) for path in FILES if "nnsight" in imported(path)] == ["probe/tracing/engine.py"]


def test_there_is_one_trace_block() -> None:
    blocks = [
        (path.name, ast.unparse(item.context_expr))
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.With)
        for item in node.items
        if ".trace(" in ast.unparse(item.context_expr)
    ]
    assert [name for name, _ in blocks] == ["engine.py"]


@pytest.mark.parametrize("room", FLOOR)
def test_every_package_is_typed(room: str) -> None:
    assert (ROOT / room / "py.typed").is_file()
