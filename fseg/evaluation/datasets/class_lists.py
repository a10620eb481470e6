"""Class lists: by which words each data set's classes are asked about, in the order of its truth."""

from __future__ import annotations

from pathlib import Path

from fseg.errors import InvalidClasses
from fseg.evaluation.datasets.declarations import DataSet
from fseg.vocabulary.classes import read_classes

LISTS = ("benchmark", "natural")
"""`benchmark`: the words that the field's repositories use. `natural`: words that a language model knows, with synonyms."""


def class_list(data_set: DataSet, which: str = "benchmark") -> dict[str, tuple[str, ...]]:
    """For each class of a set, background left out, the names that it is asked about by.

    Args:
        which: "benchmark", "natural", or a file of one class a line (synonyms behind it after commas) in the order of the truth. A set that
            brings its own names (folder, glyphs) has these for both words.

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
            f"The class list {which!r} has {len(classes)} classes, {data_set.name} has {wanted} beside the background. "
            "Line n names the n-th label, so all have to be there, in the order of the truth."
        )
    return classes
