"""How many features states have, as far as a model's configuration and modules say it before a forward."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from probe.backbones import backbone_for
from probe.backbones.shared.residual_streams import ResidualStreams
from probe.tracing.modules import Modules, text_config
from probe.tracing.reads import Module
from probe.tracing.sites import StateAddress

_HEAD_WIDTHS = {"Queries": ("qk_head_dim", "head_dim"), "Keys": ("qk_head_dim", "head_dim"), "Values": ("v_head_dim", "head_dim")}


def state_width(model: PreTrainedModel, modules: Modules, address: StateAddress | Module) -> int | None:
    """The features of the states of an address, or of a module's tensor; None: not known, and checked in the forward."""
    if isinstance(address, Module):
        return _module_width(model, address)
    if address.read == "Vision":
        return _tower_width(model, modules, address.layer)
    if address.read in _HEAD_WIDTHS:
        path = modules.attention[address.layer]
        owner = model.get_submodule(path) if path else None
        return next((width for name in _HEAD_WIDTHS[address.read] if isinstance(width := getattr(owner, name, None), int)), None)
    if address.read == "HeadOutput":
        part = modules.parts[address.layer]
        taken = getattr(model.get_submodule(part.projection), "in_features", None) if part.projection else None
        return taken // part.heads if isinstance(taken, int) and part.heads else None
    return _stream_width(model, modules, address)


def _stream_width(model: PreTrainedModel, modules: Modules, address: StateAddress) -> int | None:
    """The features of the residual stream, of several side by side, or of what a block adds to it."""
    width, backbone = getattr(text_config(model), "hidden_size", None), backbone_for(model.config)
    if not isinstance(width, int) or not isinstance(backbone, ResidualStreams):
        return width if isinstance(width, int) else None
    streams = backbone.streams(model.config)
    if address.read not in ("Hidden", "Hidden(normed=False)") or streams is None:
        return None
    merged = address == StateAddress("Hidden", len(modules.layers)) and backbone.last_is_normed
    return width if merged else width * streams


def _tower_width(model: PreTrainedModel, modules: Modules, state: int) -> int | None:
    """The features of a state of the vision tower: those that the block's own norms take."""
    block = model.get_submodule(modules.vision_blocks[max(0, state - 1)])
    weights = (getattr(part, "weight", None) for part in block.children())
    widths = {weight.shape[0] for weight in weights if isinstance(weight, nn.Parameter) and weight.ndim == 1}
    return widths.pop() if len(widths) == 1 else None


def _module_width(model: PreTrainedModel, read: Module) -> int | None:
    """The last axis of what a matrix takes or returns."""
    width = getattr(model.get_submodule(read.path), "in_features" if read.side == "input" else "out_features", None)
    return width if isinstance(width, int) else None
