"""The files of a data set: which image has which labels, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fseg.errors import InvalidDataSet, MissingFiles
from fseg.evaluation.datasets.declarations import DataSet
from fseg.evaluation.datasets.label_values import LabelValues


@dataclass(frozen=True)
class Sample:
    """An image and its labels.

    Attributes:
        name: of the image, without folder and ending; what its records and masks are called.
        image, truth: files.
        values: what the pixel values of `truth` mean.
    """

    name: str
    image: Path
    truth: Path
    values: LabelValues


@dataclass(frozen=True)
class Index:
    """What of a data set is there: the samples in order, and the files that are missing."""

    samples: tuple[Sample, ...]
    missing: tuple[Path, ...]


def read_index(declared: DataSet, root: Path) -> Index:
    """Which images of a set have their labels, and which files are missing. Opens no image.

    Raises:
        InvalidDataSet: no such folder, no list of the split, an empty split, or an image that is listed twice.
    """
    if not root.is_dir():
        raise InvalidDataSet(f"No folder {str(root)!r}. Give the one that holds\n{tree(declared)}")
    images, truths = _image_files(declared, root), _files(root / declared.truths)
    names = _listed(declared, root) if declared.split else _existing(declared, images, truths)
    if not names:
        raise InvalidDataSet(f"{declared.name} has no images under {str(root)!r}. Expected there:\n{tree(declared)}")
    samples, missing = [], []
    for name in names:
        image = images.get(name)
        form = next((form for form in declared.forms if name + form.ending in truths), None)
        if image is None:
            missing.append(root / declared.images / (name + declared.endings[0]))
        if form is None:
            missing.append(root / declared.truths / (name + declared.forms[-1].ending))
        if image is not None and form is not None:
            samples.append(Sample(name, image, root / declared.truths / (name + form.ending), form.values))
    return Index(tuple(samples), tuple(missing))


def check_complete(index: Index, *, allow_missing: bool) -> None:
    """Stop before the run, not in the middle of it.

    Raises:
        MissingFiles: files are missing, and that was not allowed; or no image has its labels.
    """
    if index.missing and not (allow_missing and index.samples):
        shown = ", ".join(repr(str(path)) for path in index.missing[:3])
        further = "" if len(index.missing) <= 3 else " and others"
        advice = (
            "--allow-missing goes on without them, and the result says so." if index.samples else "No image has its labels: check the root."
        )
        raise MissingFiles(f"{len(index.missing)} files of the set are not there: {shown}{further}. {advice}")


def tree(declared: DataSet) -> str:
    """The files of a set under its root, one a line."""
    return "\n".join(f"  {line}" for line, _ in _parts(declared))


def counted_tree(declared: DataSet, root: Path) -> str:
    """The files of a set under its root, one a line, each with how many are there."""
    parts = [(line, _count(root, pattern)) for line, pattern in _parts(declared)]
    width = max(len(line) for line, _ in parts)
    return "\n".join(f"  {line:<{width}}  {count if count else '-'}" for line, count in parts)


def _parts(declared: DataSet) -> Iterator[tuple[str, str]]:
    """What is shown for each kind of file, and the pattern that finds them."""
    any_image = len(declared.endings) > 1
    yield (
        f"{declared.images}/*{'' if any_image else declared.endings[0]}",
        f"{declared.images}/*{'.*' if any_image else declared.endings[0]}",
    )
    for form in declared.forms:
        yield f"{declared.truths}/*{form.ending}", f"{declared.truths}/*{form.ending}"
    if declared.split:
        yield declared.split, declared.split
    if declared.name == "folder":
        yield "classes.txt", "classes.txt"


def _count(root: Path, pattern: str) -> int:
    """The number of files. Converted labels, which end like the raw ones, are not counted as these."""
    converted = "TrainIds" in pattern
    return sum(1 for path in root.glob(pattern) if converted or "TrainIds" not in path.name)


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()


def _listed(declared: DataSet, root: Path) -> list[str]:
    path = root / str(declared.split)
    try:
        names = path.read_text(encoding="utf-8").split()
    except OSError as error:
        raise InvalidDataSet(f"The list of images {str(path)!r} cannot be read: {error}. Expected:\n{tree(declared)}") from error
    twice = _first_twice(names)
    if twice is not None:
        raise InvalidDataSet(f"{str(path)!r} lists {twice!r} twice: it would count twice. Remove one.")
    return names


def _image_files(declared: DataSet, root: Path) -> dict[str, Path]:
    """The image files by name."""
    folder = root / declared.images
    files = [folder / file for file in sorted(_files(folder)) if Path(file).suffix.lower() in declared.endings]
    twice = _first_twice([path.stem for path in files])
    if twice is not None:
        raise InvalidDataSet(f"There are two images {twice!r} in {str(folder)!r}, which would share one file of labels. Rename one.")
    return {path.stem: path for path in files}


def _existing(declared: DataSet, images: Iterable[str], truths: Iterable[str]) -> list[str]:
    """All names that have an image or labels, in order."""
    return sorted({*images, *(name for file in truths if (name := _named(declared, file)) is not None)})


def _named(declared: DataSet, file: str) -> str | None:
    """The image that a label file belongs to; None for another set's conversion in the same folder."""
    name = next((file.removesuffix(form.ending) for form in declared.forms if file.endswith(form.ending)), None)
    return None if name is None or name.endswith("TrainIds") else name


def _first_twice(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for name in sorted(names):
        if name in seen:
            return name
        seen.add(name)
    return None
