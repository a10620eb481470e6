"""torchvision with a CPU-only torch.

PyPI's torchvision is compiled for CUDA. With a CPU-only torch its operators do not load, and `import torchvision` stops with
"operator torchvision::nms does not exist". transformers and segment-anything both import torchvision, and neither needs an operator
of its own for what we do. So the two schemas that the import looks for are defined here, just before torchvision is first imported,
whoever imports it.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

_SCHEMAS = ("nms", "qnms")
_kept: list[Any] = []  # a torch Library takes its definitions with it when it is collected


class TorchvisionFinder(MetaPathFinder):
    """Finds nothing; defines the missing schemas when torchvision is about to be imported, and then steps aside."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """None: the finders after this one find torchvision, and everything else."""
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            define_missing_operators()
        return None


def install() -> None:
    """Prepare the first import of torchvision; nothing is imported now."""
    if "torchvision" not in sys.modules and not any(isinstance(finder, TorchvisionFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, TorchvisionFinder())


def define_missing_operators() -> None:
    """Define the schemas that torchvision's import needs, if its compiled operators do not load with this torch."""
    spec = importlib.machinery.PathFinder.find_spec("torchvision")
    folders = None if spec is None else spec.submodule_search_locations
    compiled = importlib.machinery.PathFinder.find_spec("_C", list(folders)) if folders else None
    if compiled is None or compiled.origin is None:
        return  # not installed: transformers works without it, and segment-anything says itself that it needs it

    import torch  # not before torchvision is imported, which imports it anyway

    try:
        torch.ops.load_library(compiled.origin)
    except (OSError, ImportError):
        library = torch.library.Library("torchvision", "DEF")
        for name in _SCHEMAS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
