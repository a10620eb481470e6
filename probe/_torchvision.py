"""torchvision beside a CPU-only torch.

PyPI's torchvision is compiled for CUDA. Beside a CPU-only torch its operators do not load, and `import torchvision` stops with
"operator torchvision::nms does not exist". transformers and segment-anything both import torchvision, and neither needs an operator
of its own for what we do, so the two schemas that the import looks for are defined here. This has to happen before transformers is
imported: it is the first import of `probe`.
"""

from __future__ import annotations

import importlib
import sys

import torch

_SCHEMAS = ("nms", "qnms")
_library: torch.library.Library | None = None  # a Library takes its definitions with it when it is collected


def import_torchvision() -> None:
    """Import torchvision; beside a CPU-only torch, with stand-ins for the schemas of the operators that it cannot load."""
    global _library
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return  # transformers works without it; segment-anything says itself that it needs it
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _library is not None:
            raise
        _library = torch.library.Library("torchvision", "DEF")
        for name in _SCHEMAS:
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        importlib.import_module("torchvision")


import_torchvision()
