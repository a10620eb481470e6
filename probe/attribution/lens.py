"""The logit lens: the model's own norm and head over states of any layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from probe.attribution.head import VocabularyHead
from probe.attribution.likely import LikelyTokens
from probe.attribution.words import Word, text_of_token, token_ids
from probe.backbones.shared.residual_streams import ResidualStreams
from probe.errors import InvalidRead, NotFinite
from probe.runtime import Runtime
from probe.tokens.integers import as_int
from probe.tracing.activation import Activation, RaggedActivation
from probe.tracing.capturing.finite import FiniteCheck, advice
from probe.tracing.modules import text_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BLOCK = 256
"""Positions whose logits of the whole vocabulary are held at once."""

_Reduction = Callable[[Float[Tensor, "position vocabulary"]], tuple[Tensor, ...]]
"""What is kept of a block's logits."""


def word_lens(
    runtime: Runtime,
    tokenizer: PreTrainedTokenizerBase | None,
    activation: Activation,
    words: Word | Sequence[Word],
    normed: bool | None = None,
    logits: bool = False,
) -> Activation:
    """Log-probabilities or logits of words: see `Probe.lens`."""
    if isinstance(activation, RaggedActivation):
        return RaggedActivation([word_lens(runtime, tokenizer, row, words, normed, logits) for row in activation])
    known = token_ids(words, tokenizer, _vocabulary(runtime))
    ids = torch.tensor(list(known))
    check_states(runtime, activation)

    def of_words(block: Tensor) -> tuple[Tensor, ...]:
        scores = block.float()
        found = scores[:, ids.to(scores.device)]
        return (found if logits else found - scores.logsumexp(-1, keepdim=True),)

    (found,) = _over_blocks(runtime, activation, normed, of_words)
    return _with_words(activation, found, {"word": tuple(known)}, tuple(known.values()))


def likely_tokens(
    runtime: Runtime, tokenizer: PreTrainedTokenizerBase | None, activation: Activation, top: int, normed: bool | None = None
) -> LikelyTokens:
    """The likeliest tokens: see `Probe.lens`."""
    size = _vocabulary(runtime)
    count = as_int(top)
    if count is None or not 1 <= count <= size:
        raise InvalidRead(f"lens(top={top!r}): how many of the likeliest tokens, an integer from 1 to {size}.")
    if isinstance(activation, RaggedActivation):
        raise InvalidRead(f"The rows of {activation!r} differ in length. Take the likeliest tokens of each of its .rows().")
    check_states(runtime, activation)

    def likeliest(logits: Tensor) -> tuple[Tensor, ...]:
        scores = logits.float()
        best = scores.topk(count)
        return best.indices, (best.values - scores.logsumexp(-1, keepdim=True)).exp()

    ids, probabilities = _over_blocks(runtime, activation, normed, likeliest)
    names = {token: text_of_token(token, tokenizer) for token in ids.unique().tolist()}
    return LikelyTokens(_with_words(activation, ids, {}, ()), _with_words(activation, probabilities, {}, ()), names)


def check_states(runtime: Runtime, activation: Activation) -> None:
    """Refuse what is no hidden states of this model's decoder, before anything runs.

    Raises:
        InvalidRead: no `feature` axis, no floating-point numbers, or another width.
    """
    if not isinstance(activation, Activation):
        raise InvalidRead(
            f"lens() takes an Activation, got a {type(activation).__name__}. Name the axes of a tensor: probe.Activation(states, ('token', 'feature'))."
        )
    if "feature" not in activation.dims or "word" in activation.dims or not activation.data.is_floating_point():
        raise InvalidRead(f"{activation!r} holds no hidden states: a lens takes floating-point numbers with an axis feature.")
    width, known = activation.shape["feature"], VocabularyHead(runtime).width
    if width == known:
        return
    if isinstance(runtime.backbone, ResidualStreams):
        raise InvalidRead(
            f"These states have {width} features: {runtime.family} has several residual streams, which it merges only after its last "
            f"block, into one of {known}, which its head takes."
        )
    raise InvalidRead(
        f"These states have {width} features, and the head of {runtime.family} takes {known}. A lens takes hidden states of the decoder, "
        "such as those of probe.Hidden, not a vision tower's."
    )


def normed_layers(runtime: Runtime, activation: Activation, normed: bool | None) -> tuple[bool, ...]:
    """Whether the states of each layer are after the final norm; one value without a `layer` axis.

    Raises:
        InvalidRead: neither `normed` nor the activation says so.
    """
    if normed is not None:
        return (bool(normed),) * activation.shape.get("layer", 1)
    if activation.normed is not None:
        return activation.normed
    raise InvalidRead(
        f"{activation!r} does not say whether its states are after the final norm, as hidden states of the last layer are. "
        "Pass lens(..., normed=False), or normed=True if they are."
    )


def _over_blocks(runtime: Runtime, activation: Activation, normed: bool | None, reduce: _Reduction) -> tuple[Tensor, ...]:
    """What is kept of the logits at every position: tensors with the activation's axes, `feature` replaced and put last."""
    layers = normed_layers(runtime, activation, normed)
    head, finite = VocabularyHead(runtime), FiniteCheck[None]()
    axis = activation.dims.index("feature")
    states = activation.data.detach().movedim(axis, -1)
    after = _after_norm(activation, layers).to(states.device).expand(states.shape[:-1]).flatten()
    flat = states.flatten(0, -2)
    kept: list[tuple[Tensor, tuple[Tensor, ...]]] = []
    for is_normed in (False, True):
        chosen = (after == is_normed).nonzero().flatten()
        for positions in chosen.split(BLOCK) if len(chosen) else ():
            logits = head.logits(flat[positions], normed=is_normed)
            finite.add(None, logits.amax(-1))
            kept.append((positions, tuple(part.to(flat.device) for part in reduce(logits))))
            del logits
    if finite.failed():
        raise NotFinite(f"The logits of a lens hold NaN or infinity. {advice(runtime.model.dtype)}")
    if not kept:
        raise InvalidRead(f"{activation!r} holds no position. Choose positions that are there.")
    order = torch.cat([positions for positions, _ in kept]).argsort()
    parts = zip(*(parts for _, parts in kept), strict=True)
    return tuple(torch.cat(part)[order].reshape(*states.shape[:-1], -1) for part in parts)


def _after_norm(activation: Activation, layers: tuple[bool, ...]) -> Tensor:
    """Whether states are after the final norm, in a shape that expands over all axes but `feature`."""
    return torch.tensor(layers).reshape([len(layers) if dim == "layer" else 1 for dim in activation.dims if dim != "feature"])


def _with_words(activation: Activation, data: Tensor, coords: dict[str, tuple[int, ...]], words: tuple[str, ...]) -> Activation:
    """The activation with an axis `word`, the last, instead of `feature`."""
    kept = {dim: labels for dim, labels in activation.coords.items() if dim != "feature"}
    dims = (*(dim for dim in activation.dims if dim != "feature"), "word")
    return replace(activation, data=data, dims=dims, coords={**kept, **coords}, normed=None, words=words)


def _vocabulary(runtime: Runtime) -> int:
    return int(text_config(runtime.model).vocab_size)
