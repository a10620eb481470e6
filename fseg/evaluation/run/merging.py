"""Merging the parts of a set that were evaluated with `--shard`; what is not exactly that is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrs import evolve

from fseg.errors import InvalidDataSet, RunMismatch
from fseg.evaluation.datasets.declarations import DataSet, data_set
from fseg.evaluation.datasets.readers import Sample, read_index
from fseg.evaluation.measure import fills
from fseg.evaluation.report.results import write_results
from fseg.evaluation.report.summary import RunResults
from fseg.evaluation.run.content import check_unchanged, names_fingerprint
from fseg.evaluation.run.differences import check_same, differences, listed
from fseg.evaluation.run.manifest import MANIFEST, Manifest, read_manifest
from fseg.evaluation.run.record_files import read_records
from fseg.evaluation.run.records import Expected, Record
from fseg.evaluation.run.run_folder import check_ours
from fseg.recipe import Recipe, toml_of
from probe.disk.files import check_writable, write_json
from probe.disk.folder_lock import locked

_OF_A_PART = ("shard", "images")
"""The keys of a manifest in which two parts of one set may differ."""


def merge(folders: Sequence[Path], root: Path, out: Path) -> RunResults:
    """Merge parts, and write the results of the whole set. The parts are only read.

    Args:
        root: of the data set: for its own class names, and to compare what was counted with those of its files that exist.

    Returns:
        the content of `results.json`.

    Raises:
        RunMismatch: a folder without a run, runs that differ in more than the part, parts that are missing, unfinished or given twice,
            images that are in two parts or not in the set, files that hold other bytes than when they were counted, or an `out` that is a
            part or holds something else.
        RunLocked, OutputError: `out` is in use, or cannot be written.
    """
    manifests = [_manifest_of(folder) for folder in folders]
    first = manifests[0]
    _check_one_set(folders, manifests)
    declared = data_set(first.data_set, root)
    _check_classes(first, declared, root)
    rows = {name: Recipe.from_toml(toml_of(values)) for name, values in first.rows.items()}
    expected = Expected({name: fills(declared, recipe) for name, recipe in rows.items()}, declared.labels, declared.background)
    records = _all_records(folders, manifests, expected)
    if names_fingerprint(records) != first.set_names:
        raise RunMismatch(f"The {len(records)} images of the parts are not the {first.set_images} of the set. Finish each part first.")
    check_unchanged(_existing_samples(declared, root), records)
    whole = evolve(first, shard="1/1", images=len(records), merged=len(folders))
    _check_output(out, folders)
    check_writable(out)
    with locked(out):
        existing = read_manifest(out)
        if existing is None:
            write_json(out / MANIFEST, whole.to_dict())
        else:
            check_same(out, existing.to_dict(), whole.to_dict())
        return write_results(out, whole, declared, rows, list(records.values()))


def _existing_samples(declared: DataSet, root: Path) -> tuple[Sample, ...]:
    """The set's files under the root; none on a machine that merges parts and has no images."""
    try:
        return read_index(declared, root).samples
    except InvalidDataSet:
        return ()


def _manifest_of(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    if manifest is None:
        raise RunMismatch(f"{str(folder)!r} holds no run: there is no {MANIFEST} in it.")
    return manifest


def _check_one_set(folders: Sequence[Path], manifests: Sequence[Manifest]) -> None:
    """The same run but for the part, and each part once."""
    for folder, manifest in zip(folders[1:], manifests[1:], strict=True):
        differing = differences(_without_part(manifests[0]), _without_part(manifest))
        if differing:
            raise RunMismatch(
                f"{str(folder)!r} is no part of the run in {str(folders[0])!r}: {listed(differing)}\nEvaluate it anew, as the others were."
            )
    shards = sorted(manifest.shard for manifest in manifests)
    of = shards[0].partition("/")[2]
    wanted = sorted(f"{number}/{of}" for number in range(1, int(of) + 1)) if of.isdecimal() else []
    if shards != wanted:
        raise RunMismatch(f"The folders hold the parts {', '.join(shards)}; the whole is {', '.join(wanted)}, each once.")


def _without_part(manifest: Manifest) -> dict[str, object]:
    return {key: value for key, value in manifest.to_dict().items() if key not in _OF_A_PART}


def _check_classes(manifest: Manifest, declared: DataSet, root: Path) -> None:
    named = len(manifest.classes) + declared.background
    if not declared.labels == manifest.labels == named:
        raise RunMismatch(
            f"The parts have {manifest.labels} labels, {declared.name} under {str(root)!r} has {declared.labels}. Give the set's own root."
        )


def _all_records(folders: Sequence[Path], manifests: Sequence[Manifest], expected: Expected) -> dict[str, Record]:
    records: dict[str, Record] = {}
    owner: dict[str, Path] = {}
    for folder, manifest in zip(folders, manifests, strict=True):
        read = read_records(folder, expected)
        if len(read) != manifest.images:
            raise RunMismatch(f"{str(folder)!r} has {len(read)} of its {manifest.images} images. Finish it first: start it again.")
        twice = next((image for image in read if image in records), None)
        if twice is not None:
            raise RunMismatch(f"{twice!r} is in {str(owner[twice])!r} and in {str(folder)!r}: the parts overlap. Evaluate them anew.")
        records |= read
        owner |= dict.fromkeys(read, folder)
    return records


def _check_output(out: Path, parts: Sequence[Path]) -> None:
    """Refuse to write over a part, or into a folder that is not a merge's."""
    if any(out.resolve() == part.resolve() for part in parts):
        raise RunMismatch(f"{str(out)!r} is one of the parts, whose results would be lost. Name another folder with --out.")
    check_ours(out)
