"""The families that say more than discovery can find. Importing this package registers the built-in ones."""

from probe.backbones import idefics3, internvl, lfm2_vl, llava, llava_next, llava_onevision, native, ovis2, square
from probe.backbones.base import Backbone, backbone_for, register, registered

__all__ = [
    "Backbone",
    "backbone_for",
    "idefics3",
    "internvl",
    "lfm2_vl",
    "llava",
    "llava_next",
    "llava_onevision",
    "native",
    "ovis2",
    "register",
    "registered",
    "square",
]
