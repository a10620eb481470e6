"""Our exceptions. Each message says what was asked, what is there, and what to do next."""

from __future__ import annotations


class ProbeError(Exception):
    """Base of every error that `probe` (and `fseg`, on top of it) raises on purpose."""


class LoadError(ProbeError):
    """A model could not be loaded: no such folder, no weights, neither a model of text nor a vision encoder, remote code that was not asked for."""


class NoDirectResize(LoadError):
    """Images were to be resized straight to the tower's input, and the family does not say how its tokens lie then."""


class DeviceNotFound(ProbeError):
    """A device was asked for that this machine does not have."""


class ImageError(ProbeError):
    """An image file or array that cannot be decoded as an image."""


class TemplateError(ProbeError):
    """A chat template that is unknown, or whose text does not fit the images given."""


class PackageNeeded(ProbeError):
    """A package that is not installed, and that `probe` itself does without."""


class ProcessorNeeded(ProbeError):
    """The model was loaded without a processor, and this step has to tokenise text or prepare an image."""


class InvalidRead(ProbeError):
    """A read request with a wrong field: negative blocks, an unknown position, an unknown option."""


class InvalidLayer(InvalidRead):
    """A layer that the model does not have."""


class NoAttention(InvalidRead):
    """Attention was asked of a block that has none."""


class InvalidEdit(InvalidRead):
    """An edit that this model, input or position does not allow, or a value of another shape."""


class NotRead(ProbeError):
    """A trace was asked for something that it did not read."""


class SpanNotFound(ProbeError):
    """A span, word or sentence that the text does not have."""


class AmbiguousWord(ProbeError):
    """A word that occurs more than once, asked for without an index."""


class GridMismatch(ProbeError):
    """The image layout and the image tokens in input_ids do not agree."""


class GridUnknown(ProbeError):
    """A map was to be folded onto the image, but where its tokens lie is not known."""


class UnmodelledAttention(ProbeError):
    """The attention call uses an argument that our rows do not account for."""


class WrongRows(ProbeError):
    """Attention rows times values did not give the attention call's own output: the rows cannot be trusted."""


class NotFinite(ProbeError):
    """A model computed NaN or infinity where a number was read: its states, logits, attention rows or a map cannot be an answer."""

    @classmethod
    def of_next_logits(cls) -> NotFinite:
        """The error of a token that cannot be chosen."""
        return cls("The logits of the next token hold NaN or infinity.")


class NestedTrace(ProbeError):
    """A run was started from inside a run of the same model."""


class InvalidPolicy(InvalidRead):
    """A way to share the image between questions that does not exist, or that this model cannot honour."""


class SessionClosed(ProbeError):
    """A session was used after it was closed."""


class OutputError(ProbeError):
    """A file or folder that cannot be written."""


class RunLocked(ProbeError):
    """Another process writes into the folder."""


class ClusterNotFound(ProbeError):
    """A Ray cluster that does not answer, or Ray is not installed."""


class WorkerDied(ProbeError):
    """A worker process ended before its work did."""


class InvalidItems(ProbeError):
    """Items to collect that repeat an id, lack an image, or have labels that do not go together."""


class StoreMismatch(ProbeError):
    """A folder that is no store, holds another collection, or is of another version of the format."""


class DamagedStore(ProbeError):
    """A file of a store that is cut short, missing, or has other bytes than were written."""
