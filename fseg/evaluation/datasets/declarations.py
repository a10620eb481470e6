"""The data sets: where the files of each lie, how many labels it has, and what its pixel values mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fseg.errors import InvalidClasses, InvalidDataSet
from fseg.evaluation.datasets.label_values import LabelValues, as_they_are, object_ids, shifted, stuff_ids
from fseg.vocabulary.classes import check_classes

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
BACKGROUND = "background"


@dataclass(frozen=True)
class TruthFiles:
    """One form of a set's label files: how their names end, and what their pixel values mean."""

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

DATA_SETS = (*BENCHMARKS, "folder", "glyphs", "stickers")
"""All names that `data_set` knows."""


def data_set(name: str, root: Path) -> DataSet:
    """The declaration of a data set; that of "folder" is read from the classes.txt under the root.

    Raises:
        InvalidDataSet: an unknown name, or a root without that classes.txt.
        InvalidClasses: a class in it that is empty or appears twice.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if name in ("glyphs", "stickers"):
        from fseg import glyphs, stickers  # the embedded worlds are looked for only when asked for

        classes = {"glyphs": glyphs.CLASSES, "stickers": stickers.CLASSES}[name]
        return _voc(name, "VOC2012", "SegmentationClass", "Segmentation", len(classes) + 1, None, classes)
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
    return DataSet(
        "folder", "images", "labels", (TruthFiles(".png", as_they_are(labels)),), labels, background, IMAGE_ENDINGS, classes=names
    )
