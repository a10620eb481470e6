"""The model's head over any states: the final norm, the head, and whatever the family does to the logits after it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from probe.errors import InvalidRead
from probe.runtime import Runtime
from probe.tracing.modules import Modules, text_config


@dataclass(frozen=True)
class VocabularyHead:
    """The logits of any states, by the model's own code.

    The model itself runs over one token of text, and the states take the place of its last ones. So everything that a family does between
    its last hidden state and its logits is done: the final norm, a projection, the head, a soft cap, a scale, tokens that are masked.

    Attributes:
        runtime: the model.
    """

    runtime: Runtime

    @property
    def width(self) -> int:
        """How many features a state of one residual stream has."""
        config = text_config(self.runtime.model)
        return int(config.hidden_size)

    @cached_property
    def _owner(self) -> PreTrainedModel:
        return _owner(self.runtime.model, self.runtime.modules)

    def logits(self, states: Float[Tensor, "position feature"], *, normed: bool) -> Float[Tensor, "position vocabulary"]:
        """Next-token logits of states, in the model's dtype.

        Args:
            normed: whether the states are after the final norm already.

        Raises:
            InvalidRead: the family has no head that one token of text reaches.
        """
        runtime = self.runtime
        model, modules = runtime.model, runtime.modules
        norm, owner = self.runtime.modules.final_norm, self._owner
        with runtime.engine.lock, torch.no_grad():
            # Only where a family's last hidden state is after the norm is it what the norm returned, or what was made of that.
            if normed and runtime.backbone.last_is_normed:
                place = _replaced_output(model.get_submodule(modules.last), states)
            elif norm is None:
                place = _replaced_unnormed(model, modules, states)
            elif normed:
                place = _replaced_output(model.get_submodule(norm), states)
            else:
                place = _replaced_input(model.get_submodule(norm), states)
            with place:
                output = owner(**_one_token(runtime, owner), use_cache=False)
        logits = getattr(output, "logits", None)
        if logits is None:
            raise InvalidRead(f"{runtime.family} has no head over a vocabulary here: {type(owner).__name__} returns no logits.")
        # GPT-2 lays its states out as the ids are, one token a row.
        return logits.flatten(0, 1)


def _owner(model: PreTrainedModel, modules: Modules) -> PreTrainedModel:
    """The innermost model that holds both the decoder and the head: what is around it only brings images in."""
    head = model.get_output_embeddings()
    paths = [modules.last, *(name for name, module in model.named_modules() if module is head and head is not None)]
    inside = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, PreTrainedModel) and all(path.startswith(f"{name}.") or not name for path in paths)
    ]
    owner: PreTrainedModel = max(inside, key=lambda one: len(one[0]))[1]
    return owner


def _one_token(runtime: Runtime, owner: PreTrainedModel) -> Mapping[str, object]:
    """The inputs of a forward over one token of text, any but an image's."""
    token = next(token for token in (1, 2) if token != runtime.modules.image_token_id)
    ids = torch.full((1, 1), token, dtype=torch.long, device=runtime.model.device)
    parameters = inspect.signature(owner.forward).parameters
    names = ("input_ids", "decoder_input_ids") if "decoder_input_ids" in parameters else ("input_ids",)
    return {**dict.fromkeys(names, ids), **runtime.backbone.text_inputs(runtime.model)}


@contextmanager
def _replaced_output(module: nn.Module, states: Tensor) -> Iterator[None]:
    """A module returns these states: as a tensor, or as the first part of its output."""

    def replace(module: nn.Module, inputs: object, output: object) -> object:
        if isinstance(output, ModelOutput):
            first = next(iter(output))
            output[first] = _like(states, output[first])
            return output
        if isinstance(output, tuple):
            return (_like(states, output[0]), *output[1:])
        return _like(states, output)

    handle = module.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _replaced_input(module: nn.Module, states: Tensor) -> Iterator[None]:
    """A module gets these states as its first argument."""

    def replace(module: nn.Module, inputs: tuple[object, ...], named: dict[str, object]) -> tuple[tuple[object, ...], dict[str, object]]:
        if inputs:
            return (_like(states, inputs[0]), *inputs[1:]), named
        first = next(iter(named))
        return inputs, {**named, first: _like(states, named[first])}

    handle = module.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _replaced_unnormed(model: PreTrainedModel, modules: Modules, states: Tensor) -> Iterator[None]:
    """The decoder returns these states, if its last block returns what the decoder does: no norm, found or not, is between them.

    Raises:
        InvalidRead: something is between them.
    """
    returned: list[Tensor] = []
    paths = dict.fromkeys((modules.layers[-1], modules.last))
    handles = [
        model.get_submodule(path).register_forward_hook(lambda module, inputs, output: returned.append(_first(output))) for path in paths
    ]
    try:
        with _replaced_output(model.get_submodule(modules.last), states):
            yield
    finally:
        for handle in handles:
            handle.remove()
    if not torch.equal(returned[0], returned[-1].to(returned[0].device)):
        raise InvalidRead(
            f"The final norm of {type(model).__name__} was not found, so only its last hidden state can go through the head. "
            "Register a backbone for it."
        )


def _first(output: object) -> Tensor:
    """The tensor of a module's output."""
    value = next(iter(output.values())) if isinstance(output, ModelOutput) else output[0] if isinstance(output, tuple) else output
    assert isinstance(value, Tensor)
    return value


def _like(states: Tensor, other: object) -> Tensor:
    """The states (1, position, feature) on the device and in the dtype of what they take the place of."""
    assert isinstance(other, Tensor)
    return states[None].to(other)
