"""The name under which recipes ask for the models of the package itself."""

from __future__ import annotations

import os

EMBEDDED = "glyphs"


def backbone_place(name: str | os.PathLike[str]) -> str:
    """Where a backbone of this name is: a hub id or a folder as it was given, the package's own folder for "glyphs"."""
    if name == EMBEDDED:
        from fseg.glyphs import llava_folder  # the embedded models are looked for only when asked for

        return os.fspath(llava_folder())
    return os.fspath(name)


def sam_place(name: str | os.PathLike[str]) -> str:
    """Where a SAM of this name is: a hub id, a folder or a file as it was given, the package's own file for "glyphs"."""
    if name == EMBEDDED:
        from fseg.glyphs import sam_file  # the embedded models are looked for only when asked for

        return os.fspath(sam_file())
    return os.fspath(name)
