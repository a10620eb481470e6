"""Fusions: the registry, and one file for each fusion. A fusion of a file in this folder is registered without another line.

The package is not called `fusions`: `fseg.fusions()` is the public function that lists them.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
