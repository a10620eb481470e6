from . import errors as errors
from . import glyphs as glyphs
from . import stickers as stickers
from .checkpoints import Backbone as Backbone
from .errors import FsegError as FsegError
from .evidence import Evidence as Evidence
from .fusion_methods.options import band as band
from .fusion_methods.registry import fusion as fusion
from .fusion_methods.registry import fusions as fusions
from .fusion_methods.registry import get_fusion as get_fusion
from .pipeline import Segmenter as Segmenter
from .recipe import Recipe as Recipe
from .recipe import get_recipe as get_recipe
from .recipe import recipes as recipes
from .result import Failure as Failure
from .result import Result as Result

__version__: str
