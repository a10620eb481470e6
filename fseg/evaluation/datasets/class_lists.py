"""Class lists: the names that each data set's classes are asked about by, in the order of its labels."""

from __future__ import annotations

from pathlib import Path

from fseg.errors import InvalidClasses
from fseg.evaluation.datasets.declarations import DataSet
from fseg.vocabulary.classes import read_classes

LISTS = ("benchmark", "natural")
"""`benchmark`: the words that the field's repositories use. `natural`: words that a language model knows, with synonyms."""


def class_list(data_set: DataSet, which: str = "benchmark") -> dict[str, tuple[str, ...]]:
    """The names that each class of a set (background left out) is asked about by.

    Args:
        which: "benchmark", "natural", or a file of one class a line (synonyms behind it after commas) in the order of the labels. A set that
            has its own names (folder, glyphs) uses these for both words.

    Raises:
        InvalidClasses: no such list, or one of another length than the set's: it would name the wrong labels.
    """
    if which not in LISTS:
        if not Path(which).is_file():
            raise InvalidClasses(f"No class list {which!r}: it is {' or '.join(LISTS)}, or a file with one class a line.")
        classes = read_classes(Path(which))
    elif data_set.classes is not None:
        classes = {name: (name,) for name in data_set.classes}
    else:
        classes = read_classes(Path(__file__).parent / "classes" / f"{data_set.name}.{which}.txt")
    wanted = data_set.labels - data_set.background
    if len(classes) != wanted:
        raise InvalidClasses(
            f"The class list {which!r} has {len(classes)} classes, {data_set.name} has {wanted} without the background. "
            "Line n names the n-th label, so all are needed, in the order of the labels."
        )
    return classes
