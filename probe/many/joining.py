"""Several inputs as the rows of one batch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from probe.backbones import Backbone
from probe.runtime import Runtime

IDS = ("input_ids", "decoder_input_ids")
"""The names of the inputs with ids of tokens; where both are there, the second is the decoder's."""


def kind_of(inputs: Mapping[str, Tensor], backbone: Backbone) -> Hashable:
    """What inputs have in common that can be joined: names, of each tensor how many axes and which dtype, and shapes that must agree."""
    return tuple(
        (name, value.ndim, value.dtype, value.shape if name in backbone.same_shape else None)
        if isinstance(value, Tensor)
        else (name, type(value))
        for name, value in sorted(inputs.items())
    )


@dataclass(frozen=True)
class Joined:
    """Several inputs as the rows of one batch.

    Attributes:
        inputs: the arguments of Hugging Face's forward.
        padded: the names of those that are longer than a row's own.
    """

    inputs: Mapping[str, Tensor]
    padded: frozenset[str]


def joined(rows: Sequence[Mapping[str, Tensor]], runtime: Runtime, left: frozenset[str] = frozenset()) -> Joined:
    """Inputs of equal kind as one batch. Shorter ones are padded on the right, where no causal mask and no position sees it.

    Each input is concatenated along its first axis: rows, images, or patches of images. Axes behind it are padded with zeros to the longest,
    as processors do: tokens, tiles, rows and columns of pixels.

    Args:
        left: the inputs whose tokens are padded on the left, as generate() needs it.
    """
    backbone, padding = runtime.backbone, padding_id(runtime)
    counted = _with_mask(backbone.renumbered(rows))
    inputs, padded = {}, set()
    for name in counted[0]:
        values, along = [row[name] for row in counted], backbone.joined_along.get(name, 0)
        if not isinstance(values[0], Tensor):
            inputs[name] = [part for value in values for part in value]  # type: ignore[unreachable]
            continue
        shape = [max(sizes) for sizes in zip(*(value.shape for value in values), strict=True)]
        equal = [_padded(value, shape, along, padding if name in IDS else 0, left=name in left) for value in values]
        inputs[name] = torch.cat(equal, dim=along)
        if any(longer is not value for longer, value in zip(equal, values, strict=True)):
            padded.add(name)
    return Joined(inputs, frozenset(padded))


def padding_id(runtime: Runtime) -> int:
    """An id for padding tokens: the model's own, or the smallest that is no image or audio token."""
    text, modules = runtime.model.config.get_text_config(decoder=True), runtime.modules
    own = getattr(text, "pad_token_id", None)
    taken = {modules.image_token_id, modules.audio_token_id}
    if isinstance(own, int) and 0 <= own < text.vocab_size and own not in taken:
        return own
    return next(token for token in range(len(taken) + 1) if token not in taken)


def _with_mask(rows: Sequence[Mapping[str, Tensor]]) -> Sequence[Mapping[str, Tensor]]:
    """The inputs with an attention mask, where lengths differ and there is none."""
    if "input_ids" not in rows[0] or "attention_mask" in rows[0] or len({row["input_ids"].shape for row in rows}) == 1:
        return rows
    return [{**row, "attention_mask": torch.ones_like(row["input_ids"])} for row in rows]


def _padded(value: Tensor, shape: Sequence[int], along: int, fill: int, *, left: bool) -> Tensor:
    """The value, as long as `shape` along every axis but `along`; the value itself if it is."""
    missing = [0 if axis == along else wanted - length for axis, (length, wanted) in enumerate(zip(value.shape, shape, strict=True))]
    if not any(missing):
        return value
    # torch counts axes from the last; the tokens are the second one.
    ends = [(count, 0) if left and axis == 1 else (0, count) for axis, count in enumerate(missing)]
    return pad(value, [count for both in reversed(ends) for count in both], value=fill)
