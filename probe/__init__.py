"""Look inside any Hugging Face multimodal model: hidden states, attention rows, vision features, addressed by what they are."""

from probe import _torchvision  # isort: skip  # first: transformers imports torchvision
from probe import errors
from probe.backbones import Backbone, register
from probe.errors import ProbeError
from probe.inputs.encoding import Answer, Encoding, PreparedImages
from probe.inputs.images import ImageLike, open_image
from probe.model import Probe, load
from probe.sessions.session import Choice, Session
from probe.tokens.layout import Grid, ImageLayout
from probe.tokens.spans import Span, TokenMap
from probe.tracing.activation import Activation
from probe.tracing.reads import Attention, Hidden, Logits, Position, Positions, Projected, Read, Vision, merge
from probe.tracing.trace import Trace
from probe.verification.parity import verify

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
    "Position",
    "Positions",
    "PreparedImages",
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
