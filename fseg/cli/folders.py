"""The result folder of each image: a plain name, and no folder with somebody else's files."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import chain, count
from pathlib import Path

from fseg.errors import OutputError
from fseg.result import RESULT
from probe.inputs.templates import encodable

_FORBIDDEN = '<>:"/\\|?*'
_RESERVED = frozenset(["con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))])
_LONGEST = 200  # bytes of a name: file systems take 255, and a number may follow


def folder_name(image: Path) -> str:
    """A plain folder name, on any system, for an image's file name without its suffix.

    Characters that some system forbids become "_", as do invisible ones; "." and empty names become "image".
    """
    seen = "".join(character if _is_plain(character) else "_" for character in image.stem)
    name = seen.encode()[:_LONGEST].decode(errors="ignore").rstrip(" .") or "image"
    return f"{name}_" if name.partition(".")[0].casefold() in _RESERVED else name


def result_folders(out: Path, images: Sequence[Path], *, overwrite: bool) -> list[Path]:
    """A folder in `out` for each image, named after it, with a number appended where the name is taken.

    The same images get the same folders again, so that a command that is started again replaces its own results if it may.

    Args:
        overwrite: earlier results may be replaced.

    Raises:
        OutputError: one of the folders exists with files that are no earlier result, or with one of the images in it; or with an earlier
            result that may not be replaced.
    """
    taken: set[str] = set()
    folders = []
    for image in images:
        first = folder_name(image)
        names = chain([first], (f"{first}-{number}" for number in count(2)))
        name = next(name for name in names if _alike(name) not in taken)
        taken.add(_alike(name))
        folders.append(out / name)
    for folder in folders:
        _check_free(folder, overwrite)
        refuse_inputs(_files(folder), images)
    return folders


def refuse_inputs(outputs: Iterable[Path], inputs: Sequence[Path]) -> None:
    """Refuse to write to a file that is also read, under whatever name.

    Raises:
        OutputError: an output is one of the inputs.
    """
    for output in outputs:
        for read in inputs:
            if _same(output, read):
                raise OutputError(f"{str(output)!r} would be written over {str(read)!r}, which is an input. Name another folder or file.")


def refuse_existing(file: Path, option: str, *, overwrite: bool) -> None:
    """Refuse to write to a file that exists, unless it may be replaced.

    Args:
        option: by which another file can be named.

    Raises:
        OutputError: it is a folder, or a file that may not be replaced.
    """
    if os.path.isdir(file):
        raise OutputError(f"{str(file)!r} is a folder. Name a file with {option}.")
    if os.path.lexists(file) and not overwrite:
        raise OutputError(f"{str(file)!r} exists. Replace it with --overwrite, or name another file with {option}.")


def _check_free(folder: Path, overwrite: bool) -> None:
    """An earlier result has a `result.json` of ours, which is written first; hidden files are a system's, or of a run that was killed."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise OutputError(f"{str(folder)!r} exists and is no folder. Name another folder with --out, or move it away.")
    others = [path.name for path in _files(folder) if not path.name.startswith(".")]
    if others and not _is_result(folder / RESULT):
        raise OutputError(
            f"The folder {str(folder)!r} holds {sorted(others)[0]!r}, which `fseg segment` did not write there. "
            "Name another folder with --out, or move it away."
        )
    if others and not overwrite:
        raise OutputError(f"{str(folder)!r} holds an earlier result. Replace it with --overwrite, or name another folder with --out.")


def _files(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OutputError(
            f"The folder {str(folder)!r} cannot be read: {error.strerror or error}. Name another place with --out."
        ) from error


def _is_result(path: Path) -> bool:
    if not os.path.isfile(path):
        return False
    try:
        written = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(written, dict) and {"classes", "recipe", "models", "versions"} <= written.keys()


def _is_plain(character: str) -> bool:
    return character.isprintable() and encodable(character) and character not in _FORBIDDEN


def _alike(name: str) -> str:
    """The name's form in which it equals all names that some file system does not tell apart."""
    return unicodedata.normalize("NFC", name).casefold()


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # one of them does not exist, or is no valid file name
        return False
