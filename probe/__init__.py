"""Look inside any Hugging Face multimodal model: hidden states, attention rows, vision features, addressed by what they are.

The public names are listed in `__init__.pyi`, where type checkers read them. Each is imported when it is first used: `import probe` alone
imports neither torch nor transformers.
"""

import lazy_loader

from probe import _torchvision

__version__ = "0.1.0"

_torchvision.install()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
