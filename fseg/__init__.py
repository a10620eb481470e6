"""FSeg-LLaVA: training-free open-vocabulary segmentation with a multimodal language model, as a chain of pluggable stages."""

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
