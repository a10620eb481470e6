"""Our exceptions. Each message says what was asked, what is there, and what to do next."""

from __future__ import annotations


class ProbeError(Exception):
    """Base of every error that `probe` (and `fseg`, on top of it) raises on purpose."""


class LoadError(ProbeError):
    """A model could not be loaded: no such folder, no weights, neither a model of text nor a vision encoder, remote code that was not asked for.

    Cure: give the folder that holds `config.json` and all weights, download the checkpoint anew, or pass `remote_code=True` if you trust its code.
    """


class NoDirectResize(LoadError):
    """Images were to be resized straight to the tower's input, and the family does not say how its tokens lie then.

    Cure: leave `resize="stretch"` out: the family's own processor then prepares the image.
    """


class DeviceNotFound(ProbeError):
    """A device was asked for that this machine does not have.

    Cure: name a device that `torch` sees, such as `cpu` or `cuda:0`.
    """


class ImageError(ProbeError):
    """An image file or array that cannot be decoded as an image.

    Cure: open the file in another program; give a path, a PIL image, or an array of shape (height, width, 3).
    """


class TemplateError(ProbeError):
    """A chat template that is unknown, or whose text does not fit the images given.

    Cure: name one of the templates that the message lists, or put as many images into the prompt as are given.
    """


class PackageNeeded(ProbeError):
    """A package that is not installed, and that `probe` itself does without.

    Cure: install the package that the message names.
    """


class ProcessorNeeded(ProbeError):
    """The model was loaded without a processor, and this step has to tokenise text or prepare an image.

    Cure: load a folder that holds a processor, or give plain inputs to `run`.
    """


class InvalidRead(ProbeError):
    """A read request with a wrong field: negative blocks, an unknown position, an unknown option.

    Cure: the message says what the field takes; `model.inspect()` lists what this model has.
    """


class InvalidLayer(InvalidRead):
    """A layer that the model does not have.

    Cure: count as Hugging Face does: `hidden_states` 0 is the embeddings; blocks of attention count from 0.
    """


class NoAttention(InvalidRead):
    """Attention was asked of a block that has none.

    Cure: `model.inspect()["Attention"]` lists the blocks that have attention; the others are recurrent or linear.
    """


class InvalidEdit(InvalidRead):
    """An edit that this model, input or position does not allow, or a value of another shape.

    Cure: give a value of the shape that the message names, at positions and layers that the input has.
    """


class NotRead(ProbeError):
    """A trace was asked for something that it did not read.

    Cure: name it in the reads of the run, or ask the trace for what it read: the message lists it.
    """


class SpanNotFound(ProbeError):
    """A span, word or sentence that the text does not have.

    Cure: the message lists the spans there are; `answer.tokens.text("answer")` shows what was said.
    """


class AmbiguousWord(ProbeError):
    """A word that occurs more than once, asked for without an index.

    Cure: pass `index=0` for the first occurrence, -1 for the last, or a narrower `within=`.
    """


class GridMismatch(ProbeError):
    """The image layout and the image tokens in input_ids do not agree.

    Cure: encode image and text together with `model.encode()`; a processor of another checkpoint lays out other grids.
    """


class GridUnknown(ProbeError):
    """A map was to be folded onto the image, but where its tokens lie is not known.

    Cure: read at one whole image and take one map; where a family declares no grid, [add a backbone](backbones.md).
    """


class UnmodelledAttention(ProbeError):
    """The attention call uses an argument that our rows do not account for.

    Cure: read hidden states instead, or report the model's type and the argument that the message names.
    """


class WrongRows(ProbeError):
    """Attention rows times values did not give the attention call's own output: the rows cannot be trusted.

    Cure: the message names the block; use `attn_implementation="eager"`, and report the model's type.
    """


class NotFinite(ProbeError):
    """A model computed NaN or infinity where a number was read: its states, logits, attention rows or a map cannot be an answer.

    Cure: load the model in bfloat16 or float32 where float16 overflows; else look for NaN in the weights and in your edits.
    """

    @classmethod
    def of_next_logits(cls) -> NotFinite:
        """The error of a token that cannot be chosen."""
        return cls("The logits of the next token hold NaN or infinity.")


class NestedTrace(ProbeError):
    """A run was started from inside a run of the same model.

    Cure: finish the outer run first, or put all reads and edits into one run.
    """


class InvalidPolicy(InvalidRead):
    """A way to share the image between questions that does not exist, or that this model cannot honour.

    Cure: leave the policy out: one that this model can honour is found.
    """


class SessionClosed(ProbeError):
    """A session was used after it was closed.

    Cure: ask inside the `with model.open(...)` block.
    """


class OutputError(ProbeError):
    """A file or folder that cannot be written.

    Cure: choose a place that can be written, or make room.
    """


class RunLocked(ProbeError):
    """Another process writes into the folder.

    Cure: wait for the other process, or give another folder.
    """


class ClusterNotFound(ProbeError):
    """A Ray cluster that does not answer, or Ray is not installed.

    Cure: start Ray there, give HOST:PORT of a cluster that runs, or install `fseg-llava[ray]`.
    """


class WorkerDied(ProbeError):
    """A worker process ended before its work did.

    Cure: run the same command again, it goes on; with fewer workers if memory ran out.
    """


class InvalidItems(ProbeError):
    """Items to collect that repeat an id, lack an image, or have labels that do not go together.

    Cure: give each item an id of its own and an image; the message names the item.
    """


class StoreMismatch(ProbeError):
    """A folder that is no store, holds another collection, or is of another version of the format.

    Cure: give an empty folder, or the same model, reads and items as before.
    """


class DamagedStore(ProbeError):
    """A file of a store that is cut short, missing, or has other bytes than were written.

    Cure: the file that the message names is to be collected again: delete it and run the same command.
    """
