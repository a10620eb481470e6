"""The parts of a set that were evaluated by `--shard`, put together; refused where they are not exactly that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fseg.errors import InvalidDataSet, RunMismatch
from fseg.evaluation.datasets.declarations import DataSet, data_set
from fseg.evaluation.datasets.readers import Sample, read_index
from fseg.evaluation.measure import fills
from fseg.evaluation.report.results import write_results
from fseg.evaluation.run.content import check_unchanged, names_fingerprint
from fseg.evaluation.run.record_values import Expected
from fseg.evaluation.run.records import Record, read_records
from fseg.evaluation.run.run_folder import MANIFEST, check_ours, check_same, differences, listed, locked, read_manifest, write_json
from fseg.files import check_writable
from fseg.recipe import Recipe, toml_of

_OF_A_PART = ("shard", "images")
"""What the manifests of two parts of one set may say differently."""


def merge(folders: Sequence[Path], root: Path, out: Path) -> dict[str, Any]:
    """Put parts together, and write the results of the whole. The parts are only read.

    Args:
        root: of the data set: for its own class names, and to compare what was counted with those of its files that are there.

    Returns:
        what `results.json` holds: see `fseg.evaluation.report.results.summarise`.

    Raises:
        RunMismatch: a folder without a run, runs that differ in more than the part, parts that are missing, unfinished or there twice,
            images that are in two parts or not in the set, files that hold other bytes than when they were counted, or an `out` that is a
            part or holds something else.
        RunLocked, OutputError: `out` is in use, or cannot be written.
    """
    manifests = [_manifest_of(folder) for folder in folders]
    first = manifests[0]
    _check_one_set(folders, manifests)
    declared = data_set(first["data_set"], root)
    _check_classes(first, declared, root)
    rows = {name: Recipe.from_toml(toml_of(values)) for name, values in first["rows"].items()}
    expected = Expected({name: fills(declared, recipe) for name, recipe in rows.items()}, declared.labels, declared.background)
    records = _all_records(folders, manifests, expected)
    if names_fingerprint(records) != first["set_names"]:
        raise RunMismatch(f"The {len(records)} images of the parts are not the {first['set_images']} of the set. Finish each part first.")
    check_unchanged(_samples_there(declared, root), records)
    whole = {**first, "shard": "1/1", "images": len(records), "merged": len(folders)}
    _check_place(out, folders)
    check_writable(out)
    with locked(out):
        there = read_manifest(out)
        if there is None:
            write_json(out / MANIFEST, whole)
        else:
            check_same(out, there, whole)
        return write_results(out, whole, declared, rows, list(records.values()))


def _samples_there(declared: DataSet, root: Path) -> tuple[Sample, ...]:
    """The set's files under the root; none on a machine that puts parts together and has no images."""
    try:
        return read_index(declared, root).samples
    except InvalidDataSet:
        return ()


def _manifest_of(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    if manifest is None:
        raise RunMismatch(f"{str(folder)!r} holds no run: there is no {MANIFEST} in it.")
    return manifest


def _check_one_set(folders: Sequence[Path], manifests: Sequence[Mapping[str, Any]]) -> None:
    """The same run but for the part, and each part once."""
    for folder, manifest in zip(folders[1:], manifests[1:], strict=True):
        differing = differences(_without_part(manifests[0]), _without_part(manifest))
        if differing:
            raise RunMismatch(
                f"{str(folder)!r} is no part of the run in {str(folders[0])!r}: {listed(differing)}\nEvaluate it anew, as the others were."
            )
    shards = sorted(str(manifest["shard"]) for manifest in manifests)
    of = shards[0].partition("/")[2]
    wanted = sorted(f"{number}/{of}" for number in range(1, int(of) + 1)) if of.isdecimal() else []
    if shards != wanted:
        raise RunMismatch(f"The folders hold the parts {', '.join(shards)}; the whole is {', '.join(wanted)}, each once.")


def _without_part(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key not in _OF_A_PART}


def _check_classes(manifest: Mapping[str, Any], declared: DataSet, root: Path) -> None:
    named = len(manifest["classes"]) + declared.background
    if not declared.labels == manifest["labels"] == named:
        raise RunMismatch(
            f"The parts have {manifest['labels']} labels, {declared.name} under {str(root)!r} has {declared.labels}. Give the set's own root."
        )


def _all_records(folders: Sequence[Path], manifests: Sequence[Mapping[str, Any]], expected: Expected) -> dict[str, Record]:
    records: dict[str, Record] = {}
    owner: dict[str, Path] = {}
    for folder, manifest in zip(folders, manifests, strict=True):
        found = read_records(folder, expected)
        if len(found) != manifest["images"]:
            raise RunMismatch(f"{str(folder)!r} has {len(found)} of its {manifest['images']} images. Finish it first: start it again.")
        twice = next((image for image in found if image in records), None)
        if twice is not None:
            raise RunMismatch(f"{twice!r} is in {str(owner[twice])!r} and in {str(folder)!r}: the parts overlap. Evaluate them anew.")
        records |= found
        owner |= dict.fromkeys(found, folder)
    return records


def _check_place(out: Path, parts: Sequence[Path]) -> None:
    """Nothing is written over a part, nor into a folder that is not a merge's."""
    if any(out.resolve() == part.resolve() for part in parts):
        raise RunMismatch(f"{str(out)!r} is one of the parts, whose results would be lost. Name another place with --out.")
    check_ours(out)
