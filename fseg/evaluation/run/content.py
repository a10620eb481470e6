"""Hashes of a data set: of its image names, and of the bytes of each image and label file, taken as they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from PIL import Image

from fseg.errors import RunMismatch
from fseg.evaluation.datasets.label_maps import read_truth_and_bytes
from fseg.evaluation.datasets.readers import Sample
from fseg.evaluation.measure import Labels
from fseg.evaluation.run.records import Record
from probe.disk import strict_json
from probe.inputs.images import read_image

_READERS = 4
"""Threads that read the files of finished images again when a run is continued."""


PreparedImage = TypeVar("PreparedImage")
"""What an image is prepared as."""


@dataclass(frozen=True, eq=False)
class Prepared(Generic[PreparedImage]):
    """An image, prepared for a model, its ground truth, and the hashes of the two files."""

    image: PreparedImage
    truth: Labels
    content: tuple[str, str]


def prepare(prepare_image: Callable[[Image.Image], PreparedImage], sample: Sample) -> Prepared[PreparedImage]:
    """Read a sample's files, each once, and prepare the image.

    Raises:
        ImageError, InvalidTruth: one of them cannot be read.
    """
    image, image_bytes = read_image(sample.image)
    truth, truth_bytes = read_truth_and_bytes(sample.truth, sample.values)
    return Prepared(prepare_image(image), truth, (_hash(image_bytes), _hash(truth_bytes)))


def check_unchanged(samples: Iterable[Sample], records: Mapping[str, Record]) -> None:
    """Check that the files of finished images have the bytes that were counted.

    Raises:
        RunMismatch: some have other bytes now, or cannot be read; the message names the first.
    """
    finished = [(sample, record.content) for sample in samples if (record := records.get(sample.name)) is not None and record.content]
    with ThreadPoolExecutor(_READERS) as pool:
        hashes = list(pool.map(lambda sample: (_hash_of(sample.image), _hash_of(sample.truth)), (sample for sample, _ in finished)))
    changed = [(sample, now, then) for (sample, then), now in zip(finished, hashes, strict=True) if now != then]
    if changed:
        sample, now, then = changed[0]
        path = sample.image if now[0] != then[0] else sample.truth
        raise RunMismatch(
            f"The files of {len(changed)} of {len(finished)} finished images hold other bytes than when they were counted, the first "
            f"{str(path)!r}. Put them back, or start this run in a new folder (--out)."
        )


def names_fingerprint(names: Iterable[str]) -> str:
    """A hash of a set's image names, the same in any order."""
    return _hash(strict_json.dump(sorted(names)))


def data_fingerprint(records: Iterable[Record]) -> str:
    """A hash of the names and bytes of all counted images and label files.

    It is the same for any order, parts and processes. A failed image counts by its name alone.
    """
    return _hash(strict_json.dump(sorted([record.image, *(record.content or ("", ""))] for record in records)))


def _hash_of(path: Path) -> str | None:
    try:
        return _hash(path.read_bytes())
    except OSError:
        return None


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
