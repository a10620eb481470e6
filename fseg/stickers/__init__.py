"""The sticker world: scenes of stickers under VOC's names, by several artists, for training and for tests on an artist that nobody trained on.

They are for demonstrations and tests, never a substitute for LLaVA on photographs.

>>> shown = scene(1)
>>> shown.classes
('bus', 'motorbike', 'train', 'elephant', 'banana')
"""

from __future__ import annotations

from fseg.stickers.descriptions import Truth, describe, judged
from fseg.stickers.drawings import ARTISTS, CLASSES, SYNONYMS, Artist, canonical
from fseg.stickers.scenes import Scene, Thing, scene
from fseg.worlds.weights import STICKERS

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
    "qwen_folder",
    "sam_file",
    "scene",
]

llava_folder = STICKERS.llava_folder
qwen_folder = STICKERS.qwen_folder
sam_file = STICKERS.sam_file
