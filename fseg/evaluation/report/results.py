"""From records to results.json and a table to read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from fseg import strict_json
from fseg.errors import InvalidDataSet
from fseg.evaluation.datasets.declarations import BACKGROUND, DataSet
from fseg.evaluation.measure import headline
from fseg.evaluation.metric import Counts, Presence
from fseg.evaluation.run.content import data_fingerprint
from fseg.evaluation.run.records import Record
from fseg.evaluation.run.run_folder import Kinds, fits, write_json
from fseg.files import write_atomically
from fseg.recipe import Recipe

RESULTS = "results.json"
TABLE = "table.txt"

MOST_FAILURES = 0.01
"""The share of images that may fail before a run counts as failed."""

SHOWN_FAILURES = 5
"""Failed images whose reasons stand in the table."""

_COUNT = (int, type(None))
_KINDS: Kinds = {
    "data_set": str,
    "class_list": str,
    "images": int,
    "failed": int,
    "missing_files": int,
    "images_of_the_whole_set": _COUNT,
    "limit": _COUNT,
    "shard": str,
    "models": {"backbone": str},
}
_KINDS_OF_A_ROW: Kinds = {"miou": (float, type(None)), "recipe": {"name": str}}
"""What the paper's tables need of a `results.json`, and of each row in it."""


def write_results(
    out: Path, manifest: Mapping[str, Any], declared: DataSet, rows: Mapping[str, Recipe], records: Sequence[Record]
) -> dict[str, Any]:
    """Write `results.json` and `table.txt` of a run; gives what the first of them holds.

    Raises:
        OutputError: they cannot be written.
    """
    values = summarise(manifest, declared, [names[0] for names in manifest["classes"]], rows, records)
    results: dict[str, Any] = strict_json.load(strict_json.dump(values))  # tuples as the lists of JSON
    write_json(out / RESULTS, results)
    write_atomically(out / TABLE, lambda file: file.write(f"{table(results)}\n".encode()))
    return results


def read_results_file(path: Path) -> dict[str, Any]:
    """What a `results.json` holds.

    Raises:
        InvalidDataSet: the file is damaged, or of something else than a run.
    """
    try:
        results = strict_json.load(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidDataSet(
            f"{str(path)!r} cannot be read as the results of a run: {error}. Start the run again, which writes them anew."
        ) from error
    rows = results.get("rows", {"": results}) if isinstance(results, dict) else None
    if not isinstance(rows, dict) or not all(fits(row, _KINDS_OF_A_ROW) for row in rows.values()) or not fits(results, _KINDS):
        raise InvalidDataSet(f"{str(path)!r} does not hold the results of a run of this version. Name the --out folders of runs alone.")
    return results


def read_results(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The results.json of runs, anywhere below the folders.

    Raises:
        InvalidDataSet: a folder without any, or a file that does not read as one.
    """
    found: list[dict[str, Any]] = []
    for folder in folders:
        paths = sorted(folder.rglob(RESULTS))
        if not paths:
            raise InvalidDataSet(f"No results.json in {str(folder)!r} or below. Name the --out folder of a finished `fseg eval`.")
        found += map(read_results_file, paths)
    return found


def label_names(declared: DataSet, classes: Iterable[str]) -> list[str]:
    """The name of each label, 0..C-1."""
    return [BACKGROUND, *classes] if declared.background else list(classes)


def total(records: Iterable[Record], row: str, fill: str) -> Counts | None:
    """The counts of all images that one row segmented; None without any."""
    counts = [record.rows[row].counts[fill] for record in records if record.error is None]
    return reduce(add, counts) if counts else None


def summarise(
    manifest: Mapping[str, Any], declared: DataSet, classes: Sequence[str], rows: Mapping[str, Recipe], records: Sequence[Record]
) -> dict[str, Any]:
    """The results of a run as plain values, the same whatever the order of the records. What is not known is None.

    A run of one row has that row's figures at the top; a run of several has them under `rows`, by name.
    """
    failed = sorted((record for record in records if record.error is not None), key=lambda record: record.image)
    shared = {
        "data_set": manifest["data_set"],
        "class_list": manifest["class_list"],
        "images": len(records) - len(failed),
        "failed": len(failed),
    }
    figures = {name: _row(declared, classes, name, recipe, records) for name, recipe in rows.items()}
    told = {
        "failures": {record.image: record.error for record in failed},
        "missing_files": manifest["missing_files"],
        "images_of_the_whole_set": declared.count,
        "data_fingerprint": data_fingerprint(records),
        **{key: manifest[key] for key in ("limit", "shard", "models", "versions")},
    }
    if len(figures) == 1:
        return {**next(iter(figures.values())), **shared, **told}
    return {**shared, "rows": figures, **told}


def too_many_failed(results: Mapping[str, Any]) -> bool:
    """Whether more than 1 % of the images failed."""
    return bool(results["failed"] > MOST_FAILURES * (results["images"] + results["failed"]))


def _row(declared: DataSet, classes: Sequence[str], name: str, recipe: Recipe, records: Sequence[Record]) -> dict[str, Any]:
    done = [record for record in records if record.error is None]
    fills = list(done[0].rows[name].counts) if done else []
    counts = {fill: total(done, name, fill) for fill in fills}
    asked = declared.labels - declared.background
    presence = sum((Presence.of(record.rows[name].said, record.there, asked) for record in done), Presence())
    chosen = counts.get(headline(declared, recipe))
    return {
        "miou": _known(chosen.mean_iou()) if chosen else None,
        "pixel_accuracy": _known(chosen.pixel_accuracy()) if chosen else None,
        "mean_accuracy": _known(chosen.mean_accuracy()) if chosen else None,
        "classes": {label: _known(value) for label, value in zip(label_names(declared, classes), chosen.iou().tolist(), strict=True)}
        if chosen
        else {},
        "fill": headline(declared, recipe),
        "miou_by_fill": {fill: _known(one.mean_iou()) for fill, one in counts.items() if one},
        "presence": {"precision": _known(presence.precision), "recall": _known(presence.recall), **asdict(presence)},
        "recipe": recipe.to_dict(),
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def table(results: Mapping[str, Any]) -> str:
    """What stands on the screen at the end: the figures, then the classes, best first."""
    lines = [f"{results['data_set']}, {results['images']} images, class list {results['class_list']}"]
    lines += _failures(results["failures"])
    if results["missing_files"]:
        lines.append(f"{results['missing_files']} files of the set are missing")
    rows = results["rows"] if "rows" in results else {results["recipe"]["name"]: results}
    width = max(len(name) for name in rows)
    lines += ["", f"{'':<{width}}    mIoU  pixel acc.  mean acc.  presence: precision  recall"]
    for name, row in rows.items():
        presence = row["presence"]
        lines.append(
            f"{name:<{width}}  {percent(row['miou'])}  {percent(row['pixel_accuracy']):>10}  {percent(row['mean_accuracy']):>9}  "
            f"{percent(presence['precision']):>19}  {percent(presence['recall'])}"
        )
        lines += [
            f"{'':<{width}}  {percent(value)}  with fill={fill}" for fill, value in row["miou_by_fill"].items() if fill != row["fill"]
        ]
    return "\n".join([*lines, *(["", *_by_class(results["classes"])] if "rows" not in results else [])])


def _failures(failures: Mapping[str, str]) -> list[str]:
    """The count of failed images, and the first of them with their reasons."""
    if not failures:
        return []
    shown = [" ".join(f"  {image}: {reason}".split()) for image, reason in list(failures.items())[:SHOWN_FAILURES]]
    further = len(failures) - len(shown)
    return [
        f"{len(failures)} images failed:",
        # The name of a file that is not UTF-8 cannot be printed as it is.
        *(f"  {line}".encode(errors="backslashreplace").decode() for line in shown),
        *([f"  and {further} more: see failures in {RESULTS}"] if further else []),
    ]


def percent(value: float | None) -> str:
    """A share as percent with one digit, six characters wide."""
    return f"{'-':>6}" if value is None else f"{100 * value:>6.1f}"


def _by_class(classes: Mapping[str, float | None], columns: int = 4) -> list[str]:
    """Names and IoU in columns, best first; classes that are neither predicted nor true come last."""
    ordered = sorted(classes.items(), key=lambda item: (item[1] is None, -(item[1] or 0.0)))
    width = max((len(name) for name in classes), default=0)
    cells = [f"{name:<{width}} {percent(value)}" for name, value in ordered]
    height = -(-len(cells) // columns)
    return ["   ".join(cells[row::height]) for row in range(height)]
