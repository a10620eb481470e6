"""FSeg-LLaVA: training-free open-vocabulary segmentation with a multimodal language model, as a chain of pluggable stages.

The public names are listed in `__init__.pyi`, where type checkers read them. Each is imported when it is first used, so that the command
line's help does not wait for torch.
"""

from types import ModuleType

import lazy_loader

from probe import IMPORT_LOCK
from probe import __version__ as __version__

_import_public_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> ModuleType | object:
    with IMPORT_LOCK:
        return _import_public_name(name)
