"""Class lists: what a user may ask to be segmented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fseg.errors import InvalidClasses


def check_classes(classes: Sequence[str] | Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """For each class the names that it is asked about by, in the order given, surrounding white space removed.

    Raises:
        InvalidClasses: no class, a name that is empty or no text, or a class that appears twice.
    """
    if isinstance(classes, str) or not isinstance(classes, (Sequence, Mapping)):
        raise InvalidClasses(
            f"classes={classes!r}: give a list of names, ['cat', 'dog'], or for each class its names, {{'sofa': ['sofa', 'couch']}}."
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
        raise InvalidClasses(f"A class is called {name!r}. Each class needs a name that is a text and not empty.")
    return " ".join(name.split())


def _synonyms(name: str, synonyms: Sequence[str]) -> tuple[str, ...]:
    given = [synonyms] if isinstance(synonyms, str) else list(synonyms)
    if not given:
        raise InvalidClasses(f"The class {name!r} has no name to ask about. Give it one: {{{name!r}: [{name!r}]}}.")
    return tuple(dict.fromkeys(_clean(synonym) for synonym in given))


def read_classes(path: Path) -> dict[str, tuple[str, ...]]:
    """A class file: one class a line, its synonyms behind it after commas; empty lines and lines that begin with # are skipped.

    Raises:
        InvalidClasses: the file cannot be read, or what stands in it is no class list.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows begin a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidClasses(f"The class file {str(path)!r} cannot be read: {error}. It is a UTF-8 text with one class a line.") from error
    lines = [line.strip() for line in text.splitlines()]
    entries = [[part.strip() for part in line.split(",")] for line in lines if line and not line.startswith("#")]
    if any(not part for entry in entries for part in entry):
        raise InvalidClasses(f"The class file {str(path)!r} has an empty name between two commas. Remove the comma.")
    heads = [entry[0] for entry in entries]
    check_classes(heads)
    return check_classes({entry[0]: entry for entry in entries})
