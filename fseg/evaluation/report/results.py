"""`results.json` and `table.txt` of a run: written, and the former read back for the paper's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from attrs import frozen

from fseg.errors import InvalidDataSet
from fseg.evaluation.datasets.declarations import DataSet
from fseg.evaluation.report.summary import RunResults, summarise
from fseg.evaluation.report.text import table
from fseg.evaluation.run.manifest import Manifest
from fseg.evaluation.run.records import Record
from fseg.evaluation.run.structuring import strict_converter, structure
from fseg.recipe import Recipe
from probe.disk import strict_json
from probe.disk.files import write_atomically, write_json

RESULTS = "results.json"
TABLE = "table.txt"


@frozen
class _Models:
    backbone: str


@frozen
class _Recipe:
    name: str


@frozen
class _Row:
    miou: float | None
    recipe: _Recipe


@frozen
class _Run:
    """The keys of a `results.json` that the paper's tables need, in addition to those of its rows."""

    data_set: str
    class_list: str
    images: int
    failed: int
    missing_files: int
    images_of_the_whole_set: int | None
    limit: int | None
    shard: str
    models: _Models


@frozen
class _Rows:
    rows: Mapping[str, _Row]


def write_results(out: Path, manifest: Manifest, declared: DataSet, rows: Mapping[str, Recipe], records: Sequence[Record]) -> RunResults:
    """Write `results.json` and `table.txt` of a run.

    Returns:
        the content of the former.

    Raises:
        OutputError: they cannot be written.
    """
    values = strict_json.load(strict_json.dump(summarise(manifest, declared, rows, records)))  # tuples as the lists of JSON
    results = cast(RunResults, values)
    write_json(out / RESULTS, results)
    write_atomically(out / TABLE, lambda file: file.write(f"{table(results)}\n".encode()))
    return results


def read_results_file(path: Path) -> RunResults:
    """The content of a `results.json`.

    Raises:
        InvalidDataSet: the file is damaged, or not of a run.
    """
    try:
        values = strict_json.load(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidDataSet(
            f"{str(path)!r} cannot be read as the results of a run: {error}. Start the run again, which writes them anew."
        ) from error
    converter = strict_converter(extra_keys=True)
    try:
        structure(values, _Run, converter, "results")
        structure(values, _Rows if isinstance(values, dict) and "rows" in values else _Row, converter, "results")
    except ValueError as error:
        raise InvalidDataSet(
            f"{str(path)!r} does not hold the results of a run of this version ({error}). Name the --out folders of runs alone."
        ) from error
    return cast(RunResults, values)


def read_results(folders: Sequence[Path]) -> list[RunResults]:
    """The content of each results.json of a run, anywhere below the folders.

    Raises:
        InvalidDataSet: a folder without any, or a file that is not one.
    """
    results: list[RunResults] = []
    for folder in folders:
        paths = sorted(folder.rglob(RESULTS))
        if not paths:
            raise InvalidDataSet(f"No results.json in {str(folder)!r} or below. Name the --out folder of a finished `fseg eval`.")
        results += map(read_results_file, paths)
    return results
