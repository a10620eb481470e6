"""The files of a calibration: the recipe as TOML, its figures as JSON, and the curve over layers as PNG."""

from __future__ import annotations

import os
from pathlib import Path

from attrs import asdict

from fseg.calibrate.calibration import OBSERVED, Calibration
from fseg.calibrate.choice import Candidate
from fseg.calibrate.heads import Ranking
from fseg.drawing.bands import bands_figure
from fseg.drawing.png import png_of
from fseg.errors import OutputError
from fseg.evaluation.run.manifest import MANIFEST
from probe.disk.files import write_atomically, write_json


def files_of(out: Path) -> tuple[Path, Path, Path]:
    """The files that are written for an --out: the recipe, its figures and the curve.

    >>> [path.name for path in files_of(Path("mine.toml"))]
    ['mine.toml', 'mine.json', 'mine.png']
    """
    return out, out.with_suffix(".json"), out.with_suffix(".png")


def check_free(out: Path) -> Path:
    """The folder of the run of a calibration that writes `out`, after a check that no file of somebody else would be written over.

    Raises:
        OutputError: `out` is no .toml file; or one of the files exists, and no calibration in that folder wrote it.
    """
    if out.suffix != ".toml":
        raise OutputError(f"--out {str(out)!r}: it is the recipe to write, a file such as mine.toml.")
    folder = out.with_suffix("")
    existing = [path for path in files_of(out) if os.path.lexists(path)]
    if existing and not (folder / OBSERVED / MANIFEST).is_file():
        raise OutputError(
            f"{str(existing[0])!r} exists, and there is no calibration in {str(folder)!r} that wrote it. Name another file with --out, or "
            "move it away."
        )
    return folder


def write_calibration(out: Path, calibration: Calibration) -> None:
    """Write the three files, the recipe last.

    Raises:
        OutputError: one of them cannot be written.
    """
    recipe, figures, curve = files_of(out)
    title = f"Refined masks $M_r$ against the truth, before SAM: {calibration.images} images of {calibration.manifest.data_set}"
    chosen = calibration.finalists[0].candidate.row
    drawn = png_of(bands_figure(calibration.bands, chosen.layers, title))
    write_atomically(curve, lambda file: file.write(drawn))
    write_json(figures, figures_of(calibration))
    comments = "".join(f"# {_in_one_line(line)}\n" for line in summary(calibration))
    text = f"{comments}\n{calibration.recipe.to_toml()}"
    write_atomically(recipe, lambda file: file.write(text.encode()))


def check_free_for_heads(out: Path) -> Path:
    """The folder of the run of `fseg heads` that writes `out`, after the check of `check_free`.

    Raises:
        OutputError: see `check_free`.
    """
    if out.suffix != ".toml":
        raise OutputError(f"--out {str(out)!r}: it is the recipe to write, a file such as heads.toml.")
    folder = out.with_suffix("")
    if os.path.lexists(out) and not (folder / MANIFEST).is_file():
        raise OutputError(
            f"{str(out)!r} exists, and there is no run in {str(folder)!r} that wrote it. Name another file with --out, or move it away."
        )
    return folder


def write_heads(out: Path, ranking: Ranking) -> list[str]:
    """Write the recipe with the heads found, below a comment that says how often each was selected; returns the comment's lines.

    Raises:
        OutputError: it cannot be written.
    """
    failed = f", {len(ranking.failures)} failed" if ranking.failures else ""
    lines = [
        f"Found by `fseg heads` on {ranking.images} images of {ranking.manifest.data_set}{failed}: {ranking.maps} maps of each head.",
        f"Heads whose mean attention to the image is {ranking.threshold:.4f} or more; the share of the maps that selected each:",
        ", ".join(f"({one.block}, {one.head}) {100 * one.selected:.0f} %" for one in ranking.heads[:10]),
    ]
    text = "".join(f"# {_in_one_line(line)}\n" for line in lines) + f"\n{ranking.recipe.to_toml()}"
    write_atomically(out, lambda file: file.write(text.encode()))
    return lines


def _in_one_line(text: str) -> str:
    """The text without what a TOML comment cannot hold; the class list's path may have it."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def figures_of(calibration: Calibration) -> dict[str, object]:
    """The figures as plain values: all of the choice, and what it was made from."""
    manifest = calibration.manifest.to_dict()
    return {
        "chosen": _candidate(calibration.finalists[0].candidate) | {"miou": calibration.finalists[0].miou},
        "confidence": asdict(calibration.confidence),
        "finalists": [_candidate(one.candidate) | {"miou": one.miou} for one in calibration.finalists],
        "layers": [_candidate(one) for one in calibration.layers],
        "bands": [{"layers": band, "cell_iou": value} for band, value in calibration.bands.items()],
        "rows": calibration.rows,
        "images": calibration.images,
        "failures": dict(calibration.failures),
        "data_fingerprint": calibration.data_fingerprint,
        **{key: manifest[key] for key in ("data_set", "class_list", "limit", "missing_files", "models", "versions")},
    }


def _candidate(one: Candidate) -> dict[str, object]:
    return {**asdict(one.row), "cell_iou": one.cell_iou}


def summary(calibration: Calibration) -> list[str]:
    """What was done, what came of it, and how sure it is, in a few lines."""
    first, manifest = calibration.finalists[0], calibration.manifest
    failed = f", {len(calibration.failures)} failed" if calibration.failures else ""
    confidence = calibration.confidence
    lines = [
        f"Calibrated by `fseg calibrate` on {calibration.images} images of {manifest.data_set}{failed}; class list {manifest.class_list}.",
        f"{first.candidate.row}: mIoU {100 * first.miou:.1f} with SAM; mIoU of cells {100 * first.candidate.cell_iou:.1f} before it.",
        f"The best of {calibration.rows} rows before SAM, and of {len(calibration.finalists)} finalists with it.",
        f"The best finalist in {100 * confidence.wins:.0f} % of the bootstrap samples of the images.",
    ]
    if confidence.runner_up is not None and confidence.difference is not None:
        difference, lower, upper = (100 * value for value in confidence.difference)
        lines.append(f"Ahead of {confidence.runner_up} by {difference:.2f} points, 95 % interval {lower:.2f} to {upper:.2f}.")
    return lines


def finalists_table(calibration: Calibration) -> list[str]:
    """The finalists, best first, a line each."""
    lines = ["layers  alpha  beta    mIoU  before SAM"]
    for one in calibration.finalists:
        row = one.candidate.row
        band = "{}-{}".format(*row.layers)
        lines.append(f"{band:<6}  {row.alpha:>5g}  {row.beta:<4g}  {100 * one.miou:>6.2f}  {100 * one.candidate.cell_iou:>10.2f}")
    return lines
