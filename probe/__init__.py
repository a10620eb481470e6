"""Look inside any Hugging Face multimodal model: hidden states, attention rows, vision features, addressed by what they are."""

from probe import _torchvision  # isort: skip  # first: transformers imports torchvision
from probe import errors
from probe.activation import Activation
from probe.backbones import Backbone, register
from probe.encoding import Answer, Encoding, Pictures
from probe.errors import ProbeError
from probe.images import ImageLike, open_image
from probe.layout import Grid, ImageLayout
from probe.model import Probe, load
from probe.reads import Attention, Hidden, Logits, Place, Places, Projected, Read, Vision, merge
from probe.session import Choice, Session
from probe.spans import Span, TokenMap
from probe.trace import Trace
from probe.verify import verify

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "Answer",
    "Attention",
    "Backbone",
    "Choice",
    "Encoding",
    "Grid",
    "Hidden",
    "ImageLayout",
    "ImageLike",
    "Logits",
    "Pictures",
    "Place",
    "Places",
    "Probe",
    "ProbeError",
    "Projected",
    "Read",
    "Session",
    "Span",
    "TokenMap",
    "Trace",
    "Vision",
    "_torchvision",
    "errors",
    "load",
    "merge",
    "open_image",
    "register",
    "verify",
]
