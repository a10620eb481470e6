"""Backbones: what each family of models declares beyond what discovery can find.

Importing this package registers the built-in families: every module of this folder is imported, so a new file is a new family. A file at the
root is named after the `config.model_type` that it declares; `shared` holds the layouts that several families have.
"""

from importlib import import_module
from pkgutil import iter_modules

from probe.backbones.base import SHARING, Backbone
from probe.backbones.processed_image import ProcessedImage
from probe.backbones.processed_video import ProcessedVideo
from probe.backbones.registry import backbone_for, register, registered

__all__ = ["SHARING", "Backbone", "ProcessedImage", "ProcessedVideo", "backbone_for", "register", "registered"]

for _module in iter_modules(__path__, f"{__name__}."):
    import_module(_module.name)
