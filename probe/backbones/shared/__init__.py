"""Layouts and vision towers that several families share. A family that one of them fits as it is, is registered in that file."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__, f"{__name__}."):
    import_module(_module.name)
