"""The embedded default: scenes of glyphs, and a tiny LLaVA and a tiny SAM that were trained on them.

They are for demonstrations and tests, never a substitute for LLaVA on photographs.

>>> shown = scene(1)
>>> shown.classes
('umbrella', 'cat')
"""

from __future__ import annotations

from pathlib import Path

from fseg.glyphs.scenes import CLASSES, Scene, Thing, scene

__all__ = ["CLASSES", "Scene", "Thing", "llava_folder", "sam_file", "scene"]

_WEIGHTS = Path(__file__).parent / "weights"


def llava_folder() -> Path:
    """The folder of the tiny LLaVA, in the Hugging Face format.

    >>> llava_folder().name
    'llava'
    """
    return _WEIGHTS / "llava"


def sam_file() -> Path:
    """The file of the tiny SAM: segment-anything's weights, as safetensors.

    >>> sam_file().name
    'sam.safetensors'
    """
    return _WEIGHTS / "sam.safetensors"
