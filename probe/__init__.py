"""Look inside any Hugging Face multimodal model: hidden states, attention rows, vision features, addressed by what they are.

The public names are listed in `__init__.pyi`, where type checkers read them. Each is imported when it is first used: `import probe` alone
imports neither torch nor transformers.
"""

import threading
from types import ModuleType

import lazy_loader

from probe import _torchvision

__version__ = "0.1.0"

_torchvision.install()

_import_public_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

IMPORT_LOCK = threading.RLock()
"""Held while a public name of probe or fseg is imported: transformers replaces its own module as it is imported, and a second thread that
imports from it meanwhile fails."""


def __getattr__(name: str) -> ModuleType | object:
    with IMPORT_LOCK:
        return _import_public_name(name)
