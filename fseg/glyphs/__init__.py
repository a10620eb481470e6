"""The embedded default: scenes of glyphs, and a tiny LLaVA and a tiny SAM that were trained on them.

They are for demonstrations and tests, never a substitute for LLaVA on photographs.

>>> shown = scene(1)
>>> shown.classes
('umbrella', 'cat')
"""

from __future__ import annotations

from fseg.glyphs.scenes import CLASSES, Scene, Thing, scene
from fseg.worlds.weights import GLYPHS

__all__ = ["CLASSES", "Scene", "Thing", "llava_folder", "sam_file", "scene"]

llava_folder = GLYPHS.llava_folder
sam_file = GLYPHS.sam_file
