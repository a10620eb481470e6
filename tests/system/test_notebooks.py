"""The notebooks in examples/: they run, they are short, each ends in one picture and one sentence, and they were executed before they were committed."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat import NotebookNode

from examples.execute import FOLDER, NOTEBOOKS, executed

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(cell: NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def assert_ends_in_one_picture(notebook: NotebookNode) -> None:
    assert [pictures(cell) for cell in code_cells(notebook)] == [0] * (len(code_cells(notebook)) - 1) + [1]


def test_the_readme_lists_the_notebooks_that_are_there() -> None:
    listed = re.findall(r"^\| \[(\w+\.ipynb)\]\((\w+\.ipynb)\) \|", (FOLDER / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert listed == [(path.name, path.name) for path in NOTEBOOKS] != []


def kernels() -> list[psutil.Process]:
    """The notebook kernels among this process's children."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # such as the zombie of another test
            found += [child] if "ipykernel_launcher" in child.cmdline() else []
    return found


@pytest.mark.slow
@each_notebook
def test_it_runs_and_ends_in_one_picture(path: Path) -> None:
    notebook = executed(path)  # raises where a cell fails
    assert_ends_in_one_picture(notebook)
    assert [output.text for cell in code_cells(notebook) for output in cell.outputs if output.get("name") == "stderr"] == []
    assert kernels() == []


@each_notebook
def test_the_committed_one_was_executed_from_its_first_cell_to_its_last(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    assert_ends_in_one_picture(notebook)


@each_notebook
def test_it_has_under_forty_lines_of_code(path: Path) -> None:
    source = "\n".join(cell.source for cell in code_cells(nbformat.read(path, as_version=4)))
    lines = [line for line in source.splitlines() if line.strip() and not line.strip().startswith("#")]
    assert 0 < len(lines) < 40


@each_notebook
def test_it_ends_with_one_sentence(path: Path) -> None:
    last = nbformat.read(path, as_version=4).cells[-1]
    assert last.cell_type == "markdown"
    assert re.fullmatch(r"[A-Z](?:[^.!?]|[.!?](?!\s))*\.", last.source.strip()), last.source


@each_notebook
def test_the_file_is_small_and_says_nothing_of_who_ran_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text) < 250_000
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert [dict(cell.metadata) for cell in notebook.cells if cell.metadata] == []  # no times of execution
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert not re.search(r"/home/|/root/|/tmp/|/Users/|site-packages|Loading weights", text)
