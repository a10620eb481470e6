"""The alias "glyphs", under which recipes name the embedded models."""

from __future__ import annotations

import os

from fseg import glyphs

EMBEDDED = "glyphs"


def backbone_path(name: str | os.PathLike[str]) -> str:
    """A backbone's hub id or folder: for "glyphs" the embedded model's folder, otherwise the name as given.

    >>> backbone_path("llava-hf/llava-1.5-7b-hf")
    'llava-hf/llava-1.5-7b-hf'
    """
    return os.fspath(glyphs.llava_folder() if name == EMBEDDED else name)


def sam_path(name: str | os.PathLike[str]) -> str:
    """A SAM's hub id, folder or file: for "glyphs" the embedded model's file, otherwise the name as given.

    >>> sam_path("sam_vit_h_4b8939.pth")
    'sam_vit_h_4b8939.pth'
    """
    return os.fspath(glyphs.sam_file() if name == EMBEDDED else name)
