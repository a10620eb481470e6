"""Several inputs as one padded batch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from probe.runtime import Batch, Runtime
from probe.tracing.slots import SequenceSlot

IDS = ("input_ids", "decoder_input_ids")


def kind_of(inputs: Mapping[str, Tensor]) -> Hashable:
    """What the inputs of sequences have in common that can be joined: names, and of each tensor how many axes and which dtype."""
    return tuple(
        (name, value.ndim, value.dtype) if isinstance(value, Tensor) else (name, type(value)) for name, value in sorted(inputs.items())
    )


def joined(batches: Sequence[Batch], padding: int) -> tuple[Batch, frozenset[str]]:
    """Sequences of one row each as the rows of one batch, shorter ones padded on the right, where no causal mask and no position sees it.

    Every input is concatenated along its first axis: rows of a batch, images, or patches of images. Axes behind it are padded with zeros to
    the longest, as processors do: tokens, tiles, rows and columns of pixels.

    Args:
        padding: the id of padding tokens.

    Returns:
        the batch; and the names of the inputs that were padded.
    """
    inputs, padded = {}, set()
    for name, value in _with_mask(batches).items():
        inputs[name], longer = _concatenated(value, padding if name in IDS else 0)
        if longer:
            padded.add(name)
    tokens = tuple(tokens for batch in batches for tokens in batch.tokens)
    return Batch(inputs, tokens, tuple(SequenceSlot(row) for row in range(len(tokens)))), frozenset(padded)


def padding_id(runtime: Runtime) -> int:
    """An id for padding tokens: the model's own, or the smallest that is no image or audio token."""
    text, modules = runtime.model.config.get_text_config(decoder=True), runtime.modules
    own = getattr(text, "pad_token_id", None)
    taken = {modules.image_token_id, modules.audio_token_id}
    if isinstance(own, int) and 0 <= own < text.vocab_size and own not in taken:
        return own
    return next(token for token in range(len(taken) + 1) if token not in taken)


def _with_mask(batches: Sequence[Batch]) -> dict[str, list[Tensor]]:
    """The inputs of each sequence by name, with an attention mask where lengths differ."""
    values = {name: [batch.inputs[name] for batch in batches] for name in batches[0].inputs}
    ids = values.get("input_ids", [])
    if len({row.shape for row in ids}) > 1 and "attention_mask" not in values:
        values["attention_mask"] = [torch.ones_like(row) for row in ids]
    return values


def _concatenated(values: Sequence[Tensor], fill: int) -> tuple[Tensor, bool]:
    """The values in one tensor, and whether any was padded. Lists, such as of images of several sizes, become one list."""
    if not isinstance(values[0], Tensor):
        return [part for value in values for part in value], False  # type: ignore[unreachable]
    shape = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    if all(list(value.shape[1:]) == shape for value in values):
        return torch.cat(list(values)), False
    return torch.cat([_padded(value, shape, fill) for value in values]), True


def _padded(value: Tensor, shape: Sequence[int], fill: int) -> Tensor:
    behind = [width for length, wanted in zip(reversed(value.shape[1:]), reversed(shape), strict=True) for width in (0, wanted - length)]
    return pad(value, behind, value=fill)
