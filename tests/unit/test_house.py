"""The laws of the house that can be checked by reading: who imports whom, how large a file is, what a signature says."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[2]
PACKAGES = ("probe", "fseg", "recipes")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in FILES]


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_imports_go_down_the_floors_that_pyproject_lists(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    code = lint_imports(no_cache=True, is_debug_mode=False, show_timings=False, verbose=False)
    assert code == 0, capsys.readouterr().out


def test_every_module_of_fseg_is_on_a_floor() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["name"] == "the floors of fseg")
    floors = [floor.strip() for layer in layers for floor in layer.split("|")]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if path.relative_to(ROOT).parts[0] == "fseg"]
    outside = [module for module in modules if not any(f"{module}.".startswith(f"{floor}.") for floor in floors)]
    assert outside == [
        "fseg.__init__",
        "fseg.glyphs.__init__",
        "fseg.stickers.__init__",
        "fseg.worlds.__init__",
    ]  # the doors: names of what is on the floors


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None, exclude_type_checking_imports=True)
    imports = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    while leaves := [module for module, others in imports.items() if not others & imports.keys()]:
        for module in leaves:
            del imports[module]
    assert imports == {}


def test_no_stage_imports_another_stage() -> None:
    stages = {f"fseg.stages.{path.stem}" for path in (ROOT / "fseg/stages").glob("*.py")}
    for path in (ROOT / "fseg/stages").glob("*.py"):
        modules = {node.module or "" for node in ast.walk(parsed(path)) if isinstance(node, ast.ImportFrom)}
        assert not stages & modules, path


def test_files_are_one_room_each() -> None:
    long = {name: lines for path, name in zip(FILES, IDS, strict=True) if (lines := path.read_text(encoding="utf-8").count("\n")) > 350}
    assert long == {}


def test_a_folder_has_at_most_twelve_files() -> None:
    counts = Counter(path.parent.relative_to(ROOT).as_posix() for path in FILES)
    assert {folder: count for folder, count in counts.items() if count > 12 and folder != "probe/backbones"} == {}


def test_nnsight_is_imported_in_one_file() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None, include_external_packages=True)
    assert graph.find_modules_that_directly_import("nnsight") == {"probe.tracing.engine"}


def test_there_is_one_trace_block() -> None:
    blocks = [
        name
        for path, name in zip(FILES, IDS, strict=True)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.With)
        for item in node.items
        if ".trace(" in ast.unparse(item.context_expr)
    ]
    assert blocks == ["probe/tracing/engine.py"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def public_signatures(body: list[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    """The annotations of public functions, methods and attributes, with their names."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from ((f"{node.name}.{name}", annotation) for name, annotation in public_signatures(node.body))
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (
            not node.name.startswith("_") or node.name in ("__init__", "__call__")
        ):
            arguments = node.args
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
            yield from ((f"{node.name}({one.arg})", one.annotation) for one in every if one is not None and one.annotation is not None)
            if node.returns is not None:
                yield f"{node.name}()", node.returns
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_"):
            yield node.target.id, node.annotation


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_public_signatures_say_what_they_take_and_return(path: Path) -> None:
    untyped = [
        name
        for name, annotation in public_signatures(parsed(path).body)
        if any(isinstance(part, ast.Name) and part.id == "Any" for part in ast.walk(annotation))
    ]
    assert untyped == []
