"""How many features states have, as far as a model's configuration and modules say it before a forward."""

from __future__ import annotations

from transformers import PreTrainedModel

from probe.backbones import backbone_for
from probe.backbones.shared.residual_streams import ResidualStreams
from probe.tracing.modules import Modules
from probe.tracing.sites import StateAddress


def state_width(model: PreTrainedModel, modules: Modules, address: StateAddress) -> int | None:
    """The features of the states of an address; None: not known, and checked in the forward."""
    if address.read in ("Queries", "Keys", "Values"):
        path = modules.attention[address.layer]
        width = getattr(model.get_submodule(path), "head_dim", None) if path and address.read != "Values" else None
        return width if isinstance(width, int) else None
    if address.read == "HeadOutput":
        part = modules.parts[address.layer]
        taken = getattr(model.get_submodule(part.projection), "in_features", None) if part.projection else None
        return taken // part.heads if isinstance(taken, int) and part.heads else None
    if isinstance(backbone_for(model.config), ResidualStreams):
        return None
    width = getattr(model.config.get_text_config(decoder=True), "hidden_size", None)
    return width if isinstance(width, int) else None
