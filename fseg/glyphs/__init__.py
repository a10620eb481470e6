"""The embedded default: a toy world of glyphs, with a tiny LLaVA and a tiny SAM that were trained in it.

A demonstration and a test bed. It is never a substitute for LLaVA on photographs.
"""

from __future__ import annotations

from pathlib import Path

from fseg.glyphs.scenes import CLASSES, Scene, Thing, scene

__all__ = ["CLASSES", "Scene", "Thing", "llava_folder", "sam_file", "scene"]

_WEIGHTS = Path(__file__).parent / "weights"


def llava_folder() -> Path:
    """The tiny LLaVA: an ordinary Hugging Face folder."""
    return _WEIGHTS / "llava"


def sam_file() -> Path:
    """The tiny SAM: segment-anything's weights, as safetensors."""
    return _WEIGHTS / "sam.safetensors"
