"""The paper's tables with our figures in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fseg.evaluation.report.published import ABLATIONS, COLUMNS, TABLE_1
from fseg.evaluation.report.summary import RunResults
from fseg.evaluation.report.text import percent


def ablation_table(number: int, results: RunResults | None = None) -> str:
    """A table of the paper's ablations, with the figures of a run next to the printed ones.

    Args:
        results: of `fseg ablate`; None: the printed figures alone.
    """
    rows = _next_to_the_papers(number, results)
    width = max(len(name) for name, *_ in rows)
    lines = [_ablation_title(number, results), f"{'':<{width}}  {'ours':>6}  {'LLaVA-1.5':>9}  {'LLaVA-1.6':>9}"]
    lines += [f"{name:<{width}}  {ours:>6}  {first:>9}  {second:>9}" for name, ours, first, second in rows]
    return "\n".join(lines)


def ablation_markdown(number: int, results: RunResults | None = None) -> str:
    """The same table in Markdown, under its title."""
    lines = [f"{_ablation_title(number, results)}.", "", "| | ours | LLaVA-1.5 | LLaVA-1.6 |", "|---|---|---|---|"]
    lines += [f"| {' | '.join((f'`{name}`', *figures))} |" for name, *figures in _next_to_the_papers(number, results)]
    return "\n".join(lines)


def _ablation_title(number: int, results: RunResults | None) -> str:
    where = f"ours on {results['data_set']}, {results['images']} images; " if results else ""
    return f"Table {number}: {ABLATIONS[number].key}, mIoU in percent ({where}the paper on VOC21)"


def _next_to_the_papers(number: int, results: RunResults | None) -> list[tuple[str, str, str, str]]:
    """Each row's name, our figure, and the two that the paper prints."""
    table = ABLATIONS[number]
    ours = {name: row["miou"] for name, row in results["rows"].items()} if results else {}
    printed = {name: table.rows[name].printed if name in table.rows else (None, None) for name in ours or table.rows}
    return [(name, percent(ours.get(name)).strip(), _figure(first), _figure(second)) for name, (first, second) in printed.items()]


def comparison(results: Sequence[RunResults] = ()) -> str:
    """Table 1, with the two methods that it leaves out and a row for each measured recipe.

    Args:
        results: of `fseg eval`, one a data set. A figure of less than the whole set is marked.
    """
    rows = [
        (
            f"{p.method}{'' if p.in_paper else ' [a]'}",
            p.backbone,
            p.venue,
            "yes" if p.trained else "no",
            [*map(_figure, p.miou), _mean(p.miou)],
        )
        for p in TABLE_1
    ]
    rows += [(name, backbone, "here", "no", figures) for name, backbone, figures in _measured(results)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [f"{'Method':<{widths[0]}}  {'Backbone':<{widths[1]}}  {'Venue':<{widths[2]}}  Trained  {'  '.join((*COLUMNS, 'mean'))}"]
    for method, backbone, venue, trained, figures in rows:
        shown = "  ".join(f"{figure:>{len(column)}}" for figure, column in zip(figures, (*COLUMNS, "mean"), strict=True))
        lines.append(f"{method:<{widths[0]}}  {backbone:<{widths[1]}}  {venue:<{widths[2]}}  {trained:<7}  {shown}".rstrip())
    lines += ["", "mIoU in percent. [a] cited by the paper, and not in its table."]
    if any("*" in figure for row in rows for figure in row[4]):
        lines.append("* not the whole set: a limit, a part, missing files, or images that failed; see its results.json.")
    return "\n".join(lines)


def _measured(results: Sequence[RunResults]) -> list[tuple[str, str, list[str]]]:
    """A row for each recipe, class list and model; the same set measured twice makes a second row."""
    rows: list[tuple[tuple[str, str], dict[str, RunResults]]] = []
    for one in results:
        if one.get("data_set") not in COLUMNS or "miou" not in one:
            continue
        key = (f"{one['recipe']['name']}, {one['class_list']}", Path(str(one["models"]["backbone"])).name)
        row = next((found for known, found in rows if known == key and one["data_set"] not in found), None)
        if row is None:
            row = {}
            rows.append((key, row))
        row[one["data_set"]] = one
    return [(*key, [*(_ours(found.get(column)) for column in COLUMNS), _mean_of_ours(found)]) for key, found in rows]


def _ours(one: RunResults | None) -> str:
    if one is None or one["miou"] is None:
        return "-"
    return f"{100 * one['miou']:.1f}{'*' if _is_partial(one) else ''}"


def _is_partial(one: RunResults) -> bool:
    """Whether a run did not count the whole set."""
    whole = one["images_of_the_whole_set"]
    incomplete = one["limit"] or one["missing_files"] or one["failed"] or one["shard"] != "1/1"
    return bool(incomplete or (whole and one["images"] != whole))


def _mean_of_ours(found: Mapping[str, RunResults]) -> str:
    figures = [100 * miou for column in COLUMNS if column in found and (miou := found[column]["miou"]) is not None]
    mark = "*" if any("*" in _ours(one) for one in found.values()) else ""
    return f"{sum(figures) / len(COLUMNS):.1f}{mark}" if len(figures) == len(COLUMNS) else "-"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.1f}" if len(known) == len(values) else "-"
