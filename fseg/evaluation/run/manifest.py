"""The manifest of a run: what is evaluated, and with which models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attrs import asdict, evolve, frozen

from fseg.errors import RunMismatch
from fseg.evaluation.run.structuring import strict_converter, structure
from probe.disk import strict_json

MANIFEST = "manifest.json"

FORMAT = 2
"""The version of the files in a run's folder. 1, which had no number, called a record's labels `said` and `there`."""


@frozen
class Models:
    """The models of a run.

    Attributes:
        backbone, family, dtype, revision, sam: as `Segmenter.models` gives them.
        weights: a fingerprint of the backbone's weights and of the SAM's; None where the machine cannot tell.
    """

    backbone: str
    family: str
    dtype: str
    sam: str
    weights: Mapping[str, str | None]
    revision: str | None = None

    def names(self) -> dict[str, object]:
        """All but the weights."""
        return {name: value for name, value in _plain(self).items() if name != "weights"}


@frozen
class Manifest:
    """What a run evaluates: two runs with equal manifests have equal results.

    Attributes:
        data_set, labels, class_list: the set, how many labels it has, and which names its classes are asked about by.
        classes: of each class its name, then the names that it is asked about by.
        rows: recipes by name, as plain values.
        asked_models: the models that stand in for the recipe's.
        limit, shard, save_masks: as the job has them.
        missing_files: files of the set that do not exist.
        images, set_images: how many this part has, and how many all parts together.
        set_names: a hash of the names of the latter.
        versions: of the packages.
        models: None until the first worker has opened them.
        merged: how many parts a merged run was made of.
        format: see `FORMAT`.
    """

    data_set: str
    labels: int
    class_list: str
    classes: tuple[tuple[str, ...], ...]
    rows: Mapping[str, Mapping[str, object]]
    asked_models: Mapping[str, str | None]
    limit: int | None
    shard: str
    save_masks: bool
    missing_files: int
    images: int
    set_images: int
    set_names: str
    versions: Mapping[str, str]
    models: Models | None = None
    merged: int | None = None
    format: int = FORMAT

    def to_dict(self) -> dict[str, object]:
        """The manifest as plain values; models and merged only where they are known."""
        return _plain(self)

    def without_models(self) -> dict[str, object]:
        """What can be compared before any model is opened."""
        return evolve(self, models=None).to_dict()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder's run; None for a folder without one.

    Raises:
        RunMismatch: the file there is no manifest, or one of another version.
    """
    path = folder / MANIFEST
    try:
        values = strict_json.load(path.read_bytes())
        if isinstance(values, dict) and "data_set" in values:
            _check_format(path, values.get("format", 1))
        return structure(values, Manifest, strict_converter(), "manifest")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunMismatch(f"{str(path)!r} is no manifest of a run: {error}. Name another folder with --out.") from error


def _check_format(path: Path, version: object) -> None:
    if version != FORMAT:
        raise RunMismatch(
            f"{str(path)!r} is of a run in the format {version} of another version of fseg-llava; this version reads the format {FORMAT}. "
            "Finish the run with the version that started it, or start it again in a new folder (--out)."
        )


def _plain(values: Models | Manifest) -> dict[str, object]:
    return asdict(values, filter=lambda attribute, value: attribute.default is not None or value is not None)
