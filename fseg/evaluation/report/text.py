"""The results of a run as text: `table.txt`, and what a command prints at the end."""

from __future__ import annotations

from collections.abc import Mapping

from fseg.evaluation.report.summary import RowResults, RunResults, row_results

SHOWN_FAILURES = 5
"""Failed images whose reasons stand in the table."""


def table(results: RunResults) -> str:
    """The figures of each row, then the classes' IoU, best first."""
    lines = [f"{results['data_set']}, {results['images']} images, class list {results['class_list']}"]
    lines += _failures(results["failures"])
    if results["missing_files"]:
        lines.append(f"{results['missing_files']} files of the set are missing")
    rows = row_results(results)
    width = max(len(name) for name in rows)
    lines += ["", f"{'':<{width}}    mIoU  pixel acc.  mean acc.  presence: precision  recall"]
    lines += [line for name, row in rows.items() for line in _row(name, row, width)]
    return "\n".join([*lines, *(["", *_by_class(results["classes"])] if "rows" not in results else [])])


def _row(name: str, row: RowResults, width: int) -> list[str]:
    presence = row["presence"]
    figures = (
        f"{name:<{width}}  {percent(row['miou'])}  {percent(row['pixel_accuracy']):>10}  {percent(row['mean_accuracy']):>9}  "
        f"{percent(presence['precision']):>19}  {percent(presence['recall'])}"
    )
    others = [f"{'':<{width}}  {percent(value)}  with fill={fill}" for fill, value in row["miou_by_fill"].items() if fill != row["fill"]]
    return [figures, *others]


def _failures(failures: Mapping[str, str | None]) -> list[str]:
    """The count of failed images, and the first of them with their reasons."""
    if not failures:
        return []
    shown = [" ".join(f"  {image}: {reason}".split()) for image, reason in list(failures.items())[:SHOWN_FAILURES]]
    further = len(failures) - len(shown)
    return [
        f"{len(failures)} images failed:",
        # The name of a file that is not UTF-8 cannot be printed as it is.
        *(f"  {line}".encode(errors="backslashreplace").decode() for line in shown),
        *([f"  and {further} more: see failures in results.json"] if further else []),
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
