import threading

from . import edit as edit
from . import errors as errors
from . import views as views
from .attribution.decomposition import Attribution as Attribution
from .attribution.likely import LikelyTokens as LikelyTokens
from .attribution.metrics import LogitDifference as LogitDifference
from .attribution.metrics import TokenDifference as TokenDifference
from .backbones.base import Backbone as Backbone
from .backbones.processed_image import ProcessedImage as ProcessedImage
from .backbones.registry import register as register
from .errors import ProbeError as ProbeError
from .experiments.causal_trace import CausalTrace as CausalTrace
from .experiments.causal_trace import causal_trace as causal_trace
from .inputs.encoding import Answer as Answer
from .inputs.encoding import Encoding as Encoding
from .inputs.encoding import PreparedImages as PreparedImages
from .inputs.images import ImageLike as ImageLike
from .inputs.images import open_image as open_image
from .many.ordered import InOrder as InOrder
from .model import Probe as Probe
from .model import load as load
from .sessions.choice import Choice as Choice
from .sessions.session import Session as Session
from .store.collecting.collect import collect as collect
from .store.collecting.items import Item as Item
from .store.reading.store import Store as Store
from .store.reading.store import open_store as open_store
from .tokens.layout import Grid as Grid
from .tokens.layout import ImageLayout as ImageLayout
from .tokens.spans import Span as Span
from .tokens.spans import TokenMap as TokenMap
from .tokens.video import VideoLayout as VideoLayout
from .tracing.activation import Activation as Activation
from .tracing.activation import RaggedActivation as RaggedActivation
from .tracing.reads import Attention as Attention
from .tracing.reads import AttentionOutput as AttentionOutput
from .tracing.reads import HeadOutput as HeadOutput
from .tracing.reads import Hidden as Hidden
from .tracing.reads import Keys as Keys
from .tracing.reads import Logits as Logits
from .tracing.reads import MLPOutput as MLPOutput
from .tracing.reads import Module as Module
from .tracing.reads import Position as Position
from .tracing.reads import Positions as Positions
from .tracing.reads import Projected as Projected
from .tracing.reads import Queries as Queries
from .tracing.reads import Read as Read
from .tracing.reads import Values as Values
from .tracing.reads import Vision as Vision
from .tracing.reads import VisionAttention as VisionAttention
from .tracing.reads import merge as merge
from .tracing.trace import Trace as Trace
from .verification import verify as verify

__version__: str
IMPORT_LOCK: threading.RLock
