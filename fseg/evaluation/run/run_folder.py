"""The folder of a run: the check that it is one."""

from __future__ import annotations

import re
from pathlib import Path

from fseg.errors import OutputError, RunMismatch
from fseg.evaluation.run.manifest import MANIFEST
from fseg.evaluation.run.record_files import FOLDER

_HIDDEN = re.compile(r"\.(fseg|probe)-.+")
"""What a run that was killed before it had a manifest leaves behind: hidden files with our prefix."""


def check_ours(folder: Path) -> None:
    """Check that a folder is a run's, or free for one. Writes nothing.

    Raises:
        OutputError: there is a file of this name, or the folder cannot be read.
        RunMismatch: the folder holds other files, or records without the manifest that says what they are of.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"{str(folder)!r} cannot be written: {error.strerror or error}. Name a new folder with --out.") from error
    foreign = [name for name in names if _HIDDEN.fullmatch(name) is None]
    if MANIFEST in names or not foreign:
        return
    if any((folder / FOLDER).glob("*.jsonl")):
        raise RunMismatch(
            f"{str(folder)!r} holds {FOLDER}/*.jsonl and no {MANIFEST}, which says what they are of. "
            "Put the manifest back, or name another folder with --out."
        )
    shown = ", ".join(map(repr, foreign[:3])) + (", ..." if len(foreign) > 3 else "")
    raise RunMismatch(f"{str(folder)!r} is no folder of a run: it holds {shown}. Name a new or empty folder with --out.")
