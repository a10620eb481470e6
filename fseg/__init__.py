"""FSeg-LLaVA: training-free open-vocabulary segmentation with a multimodal language model, as a chain of pluggable stages."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fseg.errors import FsegError
    from fseg.evidence import Evidence
    from fseg.fusion_methods.registry import band, fusion, fusions, get_fusion
    from fseg.pipeline import Segmenter
    from fseg.recipe import Recipe, get_recipe, recipes
    from fseg.result import Failure, Result

__all__ = [
    "Evidence",
    "Failure",
    "FsegError",
    "Recipe",
    "Result",
    "Segmenter",
    "band",
    "fusion",
    "fusions",
    "get_fusion",
    "get_recipe",
    "recipes",
]

_MODULES = {
    "FsegError": "errors",
    "Evidence": "evidence",
    "band": "fusion_methods.registry",
    "fusion": "fusion_methods.registry",
    "fusions": "fusion_methods.registry",
    "get_fusion": "fusion_methods.registry",
    "Segmenter": "pipeline",
    "Recipe": "recipe",
    "get_recipe": "recipe",
    "recipes": "recipe",
    "Failure": "result",
    "Result": "result",
}
"""Each exported name's module. It is imported when the name is first used: the command line's help does not wait for torch."""

if not TYPE_CHECKING:  # to a type checker, a module with __getattr__ has every attribute

    def __getattr__(name: str) -> object:
        """The exported object or the submodule of this name (PEP 562)."""
        if name in _MODULES:
            value = globals()[name] = getattr(import_module(f"fseg.{_MODULES[name]}"), name)
            return value
        try:
            if name.startswith("_"):
                raise ModuleNotFoundError(name=f"fseg.{name}")
            return import_module(f"fseg.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"fseg.{name}":
                raise
            raise AttributeError(f"module 'fseg' has no attribute {name!r}. It has {', '.join(__all__)}.") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
