"""The families that say more than discovery can find. Importing this package registers the built-in ones."""

from probe.backbones import llava, llava_next
from probe.backbones.base import Backbone, backbone_for, register, registered

__all__ = ["Backbone", "backbone_for", "llava", "llava_next", "register", "registered"]
