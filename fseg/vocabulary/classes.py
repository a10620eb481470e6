"""Class lists: what a user may ask to be segmented."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os.path import isfile
from pathlib import Path
from unicodedata import category

from fseg.checks import shown
from fseg.errors import InvalidClasses
from probe.inputs.templates import encodable

MOST_CHARACTERS = 200
"""The maximum length of a name: it occurs three times in a question, which has to fit into any model's context with image and answer."""


def check_classes(classes: Sequence[str] | Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The names that each class is asked about by, in the order given, without surrounding white space.

    Raises:
        InvalidClasses: no class, a class that appears twice, or a name that is empty, not a string, longer than 200 characters, or contains
            a control character or a lone surrogate.

    >>> check_classes(["cat", "dog"])
    {'cat': ('cat',), 'dog': ('dog',)}
    >>> check_classes({"sofa": ["sofa", "couch"]})
    {'sofa': ('sofa', 'couch')}
    """
    if isinstance(classes, str) or not isinstance(classes, (Sequence, Mapping)):
        raise InvalidClasses(
            f"classes={shown(classes)}: give a list of names, ['cat', 'dog'], or for each class its names, {{'sofa': ['sofa', 'couch']}}."
        )
    named = classes if isinstance(classes, Mapping) else {}
    names = [_clean(name) for name in classes]
    if not names:
        raise InvalidClasses("No classes were given. Name at least one, such as classes=['cat'].")
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            raise InvalidClasses(f"The class {name!r} appears twice. Give each class once.")
        seen.add(name.casefold())
    return {_clean(key): _synonyms(key, named[key]) if named else (name,) for key, name in zip(classes, names, strict=True)}


def _clean(name: object) -> str:
    if not isinstance(name, str) or not name.strip():
        raise InvalidClasses(f"A class is called {shown(name)}. Each class needs a name that is a text and not empty.")
    cleaned = " ".join(name.split())
    if len(cleaned) > MOST_CHARACTERS:
        raise InvalidClasses(
            f"A class name has {len(cleaned)} characters: {shown(cleaned)}. A question has room for {MOST_CHARACTERS}. "
            "Several classes are given apart, each in an entry of its own."
        )
    if not encodable(cleaned):
        raise InvalidClasses(f"The class name {cleaned!r} holds a lone surrogate, which is no character. Give it in UTF-8.")
    if any(category(character) == "Cc" for character in cleaned):
        raise InvalidClasses(f"The class name {cleaned!r} holds a control character, which no model reads. Leave it out.")
    return cleaned


def _synonyms(name: str, synonyms: object) -> tuple[str, ...]:
    given = [synonyms] if isinstance(synonyms, str) else list(synonyms) if isinstance(synonyms, Iterable) else None
    if given is None:
        raise InvalidClasses(f"The class {name!r} has the names {shown(synonyms)}. Give a list of them: {{{name!r}: [{name!r}]}}.")
    if not given:
        raise InvalidClasses(f"The class {name!r} has no name to ask about. Give it one: {{{name!r}: [{name!r}]}}.")
    return tuple(dict.fromkeys(_clean(synonym) for synonym in given))


def read_classes(path: Path) -> dict[str, tuple[str, ...]]:
    """The classes of a text file: one class per line, then its synonyms, separated by commas. Empty lines and lines with # are skipped.

    Raises:
        InvalidClasses: the file cannot be read, or is not a class list.
    """
    if not isfile(path):  # reading a pipe could block for ever
        raise InvalidClasses(
            f"The class file {shown(str(path))} cannot be read: there is no such file. It is a text with one class a line."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors write a byte-order mark
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidClasses(f"The class file {str(path)!r} cannot be read: {error}. It is a UTF-8 text with one class a line.") from error
    lines = [line.strip() for line in text.splitlines()]
    entries = [[part.strip() for part in line.split(",")] for line in lines if line and not line.startswith("#")]
    if any(not part for entry in entries for part in entry):
        raise InvalidClasses(f"The class file {str(path)!r} has an empty name between two commas. Remove the comma.")
    heads = [entry[0] for entry in entries]
    check_classes(heads)
    return check_classes({entry[0]: entry for entry in entries})
