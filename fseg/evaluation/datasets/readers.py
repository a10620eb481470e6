"""Data sets as they are distributed: where their files lie, which image has which labels, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fseg.errors import InvalidClasses, InvalidDataSet, MissingFiles
from fseg.evaluation.datasets.label_maps import LabelValues, as_they_are, object_ids, shifted, stuff_ids
from fseg.vocabulary.classes import check_classes

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
BACKGROUND = "background"


@dataclass(frozen=True)
class TruthFiles:
    """One form in which a set's labels are distributed: the end of the files' names, and what their values mean."""

    ending: str
    values: LabelValues


@dataclass(frozen=True)
class DataSet:
    """What a data set is and where its files lie under the root.

    Attributes:
        name: as `--dataset` takes it.
        images, truths: folders.
        endings: of the image files, in small letters.
        forms: of the label files; of several that are there, the first is read.
        labels: how many there are, C, background included.
        background: label 0 is the background; otherwise every pixel has a class.
        split: the file that lists the images; None: all files that are there.
        count: how many images the whole set has; None where any number will do.
        classes: its own class names, background left out; None where `fseg.evaluation.datasets.class_lists` has them.
    """

    name: str
    images: str
    truths: str
    forms: tuple[TruthFiles, ...]
    labels: int
    background: bool
    endings: tuple[str, ...] = (".jpg",)
    split: str | None = None
    count: int | None = None
    classes: tuple[str, ...] | None = None


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


def _voc(name: str, year: str, truths: str, split: str, labels: int, count: int | None, classes: tuple[str, ...] | None = None) -> DataSet:
    root = f"VOCdevkit/{year}"
    return DataSet(
        name=name,
        images=f"{root}/JPEGImages",
        truths=f"{root}/{truths}",
        forms=(TruthFiles(".png", as_they_are(labels)),),
        labels=labels,
        background=True,
        split=f"{root}/ImageSets/{split}/val.txt",
        count=count,
        classes=classes,
    )


def _coco(name: str, forms: tuple[TruthFiles, ...], labels: int, background: bool) -> DataSet:
    return DataSet(name, "images/val2017", "annotations/val2017", forms, labels, background, count=5000)


BENCHMARKS: dict[str, DataSet] = {
    declared.name: declared
    for declared in (
        _voc("voc21", "VOC2012", "SegmentationClass", "Segmentation", 21, 1449),
        _voc("context60", "VOC2010", "SegmentationClassContext", "SegmentationContext", 60, None),
        _coco("coco-object", (TruthFiles("_instanceTrainIds.png", as_they_are(81)), TruthFiles(".png", object_ids())), 81, True),
        _coco("coco-stuff", (TruthFiles("_labelTrainIds.png", as_they_are(171)), TruthFiles(".png", stuff_ids())), 171, False),
        DataSet(
            name="ade150",
            images="ADEChallengeData2016/images/validation",
            truths="ADEChallengeData2016/annotations/validation",
            forms=(TruthFiles(".png", shifted(150)),),
            labels=150,
            background=False,
            count=2000,
        ),
    )
}
"""The five sets of the paper's Table 1."""

DATA_SETS = (*BENCHMARKS, "folder", "glyphs")
"""All names that `data_set` knows."""


def data_set(name: str, root: Path) -> DataSet:
    """The declaration of a data set; that of "folder" is read from the classes.txt under the root.

    Raises:
        InvalidDataSet: an unknown name, or a root without that classes.txt.
        InvalidClasses: a class in it that is empty or appears twice.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if name == "glyphs":
        from fseg.glyphs import CLASSES  # the embedded world is looked for only when asked for

        return _voc("glyphs", "VOC2012", "SegmentationClass", "Segmentation", len(CLASSES) + 1, None, CLASSES)
    if name == "folder":
        return _folder(root)
    raise InvalidDataSet(f"No data set {name!r}. There are {', '.join(DATA_SETS)}; `fseg datasets` shows the files of each.")


def _folder(root: Path) -> DataSet:
    path = root / "classes.txt"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidDataSet(f"The classes of a folder stand in {str(path)!r}, one name a line, which cannot be read: {error}.") from error
    while lines and not lines[-1].strip():
        lines.pop()
    background = bool(lines) and lines[0].strip().casefold() == BACKGROUND
    try:
        names = tuple(check_classes(lines[background:]))
    except InvalidClasses as error:
        raise InvalidClasses(f"In {str(path)!r}, where line n names label n: {error}") from error
    labels = len(names) + background
    return DataSet("folder", "images", "labels", (TruthFiles(".png", as_they_are(labels)),), labels, background, PICTURES, classes=names)


def read_index(declared: DataSet, root: Path) -> Index:
    """Which images of a set have their labels, and which files are missing. Opens no picture.

    Raises:
        InvalidDataSet: no such folder, no list of the split, an empty split, or an image that is listed twice.
    """
    if not root.is_dir():
        raise InvalidDataSet(f"No folder {str(root)!r}. Give the one that holds\n{tree(declared)}")
    images, truths = _pictures(declared, root), _files(root / declared.truths)
    names = _listed(declared, root) if declared.split else _there(declared, images, truths)
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


def found(declared: DataSet, root: Path) -> str:
    """The files of a set under its root, one a line, each with how many are there."""
    parts = [(line, _count(root, pattern)) for line, pattern in _parts(declared)]
    width = max(len(line) for line, _ in parts)
    return "\n".join(f"  {line:<{width}}  {count if count else '-'}" for line, count in parts)


def _parts(declared: DataSet) -> Iterator[tuple[str, str]]:
    """What is shown for each kind of file, and the pattern that finds them."""
    any_picture = len(declared.endings) > 1
    yield (
        f"{declared.images}/*{'' if any_picture else declared.endings[0]}",
        f"{declared.images}/*{'.*' if any_picture else declared.endings[0]}",
    )
    for form in declared.forms:
        yield f"{declared.truths}/*{form.ending}", f"{declared.truths}/*{form.ending}"
    if declared.split:
        yield declared.split, declared.split
    if declared.name == "folder":
        yield "classes.txt", "classes.txt"


def _count(root: Path, pattern: str) -> int:
    """Converted labels lie beside the raw ones and end alike: they count as what they are."""
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


def _pictures(declared: DataSet, root: Path) -> dict[str, Path]:
    """The image files by name."""
    folder = root / declared.images
    files = [folder / file for file in sorted(_files(folder)) if Path(file).suffix.lower() in declared.endings]
    twice = _first_twice([path.stem for path in files])
    if twice is not None:
        raise InvalidDataSet(f"There are two images {twice!r} in {str(folder)!r}, which would share one file of labels. Rename one.")
    return {path.stem: path for path in files}


def _there(declared: DataSet, images: Iterable[str], truths: Iterable[str]) -> list[str]:
    """All names that have an image or labels, in order."""
    return sorted({*images, *(name for file in truths if (name := _named(declared, file)) is not None)})


def _named(declared: DataSet, file: str) -> str | None:
    """The image that a file of labels belongs to; None for another set's conversion beside them."""
    name = next((file.removesuffix(form.ending) for form in declared.forms if file.endswith(form.ending)), None)
    return None if name is None or name.endswith("TrainIds") else name


def _first_twice(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for name in sorted(names):
        if name in seen:
            return name
        seen.add(name)
    return None
