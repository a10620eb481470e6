"""The sticker world: scenes of stickers under VOC's names, by several artists, for training and for tests on an artist that nobody trained on.

They are for demonstrations and tests, never a substitute for LLaVA on photographs.

>>> shown = scene(1)
>>> shown.classes
('bus', 'motorbike', 'train', 'elephant', 'banana')
"""

from __future__ import annotations

from pathlib import Path

from fseg.stickers.descriptions import Truth, describe, judged
from fseg.stickers.drawings import ARTISTS, CLASSES, SYNONYMS, Artist, canonical
from fseg.stickers.scenes import Scene, Thing, scene

__all__ = [
    "ARTISTS",
    "CLASSES",
    "SYNONYMS",
    "Artist",
    "Scene",
    "Thing",
    "Truth",
    "canonical",
    "describe",
    "judged",
    "llava_folder",
    "sam_file",
    "scene",
]

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
