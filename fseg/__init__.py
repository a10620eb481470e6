"""FSeg-LLaVA: training-free open-vocabulary segmentation with a multimodal language model, as a chain of pluggable stages.

The public names are listed in `__init__.pyi`, where type checkers read them. Each is imported when it is first used, so that the command
line's help does not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
