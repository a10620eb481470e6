"""Where things are in a Hugging Face model, found from its structure and from what transformers itself declares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from probe.errors import LoadError


@dataclass(frozen=True)
class Modules:
    """Module paths, as in `model.get_submodule(path)`.

    Attributes:
        layers: the decoder blocks.
        attention: for each decoder block its attention module; None where it has none.
        norm: the final norm of the decoder; "" where there is none.
        vision: the vision tower; "" where there is none.
        vision_blocks: its blocks.
        image_token_id: the id that stands for image tokens; None where there is none.
    """

    layers: tuple[str, ...]
    attention: tuple[str | None, ...]
    norm: str
    vision: str
    vision_blocks: tuple[str, ...]
    image_token_id: int | None


def discover(model: Any) -> Modules:
    """Find the modules of a multimodal model.

    Raises:
        LoadError: no stack of decoder blocks as deep as the text configuration says.
    """
    names = {module: name for name, module in model.named_modules()}
    decoder = model.get_decoder()
    depth = model.config.get_text_config(decoder=True).num_hidden_layers
    stack = next((m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == depth), None)
    if stack is None:
        raise LoadError(
            f"{type(model).__name__} has no list of {depth} decoder blocks inside {type(decoder).__name__}. Register a backbone for it."
        )
    recorded = getattr(decoder, "_can_record_outputs", None) or {}
    vision = _vision_tower(model)
    return Modules(
        layers=tuple(names[block] for block in stack),
        attention=tuple(_attention(block, names, recorded.get("attentions")) for block in stack),
        norm=next((names[child] for name, child in decoder.named_children() if "norm" in name.lower()), ""),
        vision=names[vision] if vision is not None else "",
        vision_blocks=tuple(names[block] for block in _longest_stack(vision)) if vision is not None else (),
        image_token_id=getattr(model.config, "image_token_id", getattr(model.config, "image_token_index", None)),
    )


def _attention(block: nn.Module, names: dict[nn.Module, str], declared: Any) -> str | None:
    """The attention module of a block: of the class that transformers records, or called so."""
    kinds = tuple(kind for kind in _flat(declared) if isinstance(kind, type))
    for name, child in block.named_children():
        if (kinds and isinstance(child, kinds)) or name in ("self_attn", "attention", "attn", "cross_attn"):
            return names[child]
    return None


def _flat(declared: Any) -> Iterator[Any]:
    for entry in declared if isinstance(declared, (list, tuple)) else [declared]:
        yield getattr(entry, "target_class", entry)


def _vision_tower(model: Any) -> nn.Module | None:
    tower = model.get_encoder(modality="image")
    return tower if isinstance(tower, nn.Module) and tower is not model and _longest_stack(tower) else None


def _longest_stack(tower: nn.Module) -> list[nn.Module]:
    """The longest list of blocks that contain attention."""
    stacks = [
        list(module)
        for module in tower.modules()
        if isinstance(module, nn.ModuleList) and any("attn" in name or "attention" in name for name, _ in module.named_modules())
    ]
    return max(stacks, key=len, default=[])
