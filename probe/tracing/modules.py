"""Finds the modules of a Hugging Face model, from what transformers declares and from the model's structure."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from probe.backbones import backbone_for
from probe.errors import LoadError
from probe.tracing.parts import BlockParts, block_parts, changed_between_blocks, final_norm

_ATTENTION = ("self_attn", "attention", "attn", "cross_attn", "self_attention")
_IMAGE_TOKEN = ("image_token_id", "image_token_index", "video_token_index")
_AUDIO_TOKEN = ("audio_token_id", "audio_token_index")
BETWEEN_BLOCKS = "the states are changed between blocks, where what is known of the image is added to them"
"""The `sum_reason` of families in which each block is the sum of its parts, and its input is not what the block before it gave."""
_IMAGE_INPUTS = ("pixel_values", "flattened_patches")
_PART_READS = ("AttentionOutput", "MLPOutput", "HeadOutput", "Queries", "Keys", "Values")
_DECODER_READS = ("Hidden", "Attention", *_PART_READS, "Projected", "Logits")


@dataclass(frozen=True)
class Modules:
    """The module paths of a model, as in `model.get_submodule(path)`.

    Attributes:
        layers: the decoder blocks; none in a vision encoder.
        attention: for each decoder block its attention module; None for a block without attention.
        attention_without_interface: the decoder blocks whose attention computes its weights itself, without transformers' attention interface.
        causal: whether the family declares that its tokens attend to none behind them, but for those of one image (`Backbone.prefix`).
        other_keys: the decoder blocks whose attention has keys that are not the sequence's.
        key_value_heads: how many heads keys and values have; 0: not known, or not the same in every block.
        vision_attention: for each block of the vision tower the module that calls the attention interface; None: it has none.
        paths: every module of the model.
        last: the module whose output is the last hidden state, after the final norm as in Hugging Face.
        vision: the vision tower; "" if there is none.
        vision_blocks: its blocks.
        image_token_id: the id of image tokens in `input_ids`; None if there is none.
        audio_token_id: the id of audio tokens in `input_ids`; None if there is none.
        axes: the axes of a block's output.
        unreadable: name of a read -> why it cannot be read from this family, and what to read instead.
        parts: for each decoder block where its attention and its MLP are.
        final_norm: the norm that is applied to the last block's output before the head; None: there is none.
        sum_reason: why a hidden state is not the one before it plus what the block's parts add (`Backbone.sum_reason`); "" where it is.
    """

    layers: tuple[str, ...]
    attention: tuple[str | None, ...]
    last: str
    vision: str
    vision_blocks: tuple[str, ...]
    image_token_id: int | None
    axes: tuple[str, ...] = ("batch", "token", "feature")
    unreadable: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[BlockParts, ...] = ()
    final_norm: str | None = None
    sum_reason: str = ""
    attention_without_interface: frozenset[int] = frozenset()
    causal: bool = False
    other_keys: frozenset[int] = frozenset()
    key_value_heads: int = 0
    vision_attention: tuple[str | None, ...] = ()
    paths: frozenset[str] = frozenset()
    audio_token_id: int | None = None


def discover(model: PreTrainedModel) -> Modules:
    """Find the modules of a multimodal model, a model of words, or a vision encoder.

    Raises:
        LoadError: no stack of decoder blocks as deep as the text configuration says; a vision encoder without blocks.
    """
    names = {module: name for name, module in model.named_modules()}
    if is_vision_encoder(model):
        return _vision_encoder(model, names)
    decoder, blocks, last = _decoder(model)
    backbone = backbone_for(model.config)
    vision, vision_blocks = _vision(model, decoder) if "Vision" not in backbone.unreadable else (None, [])
    declared = _recorded(decoder, "attentions")
    attention = tuple(_attention(names[block], block, declared) for block in blocks)
    norm = final_norm(decoder)
    return Modules(
        layers=tuple(names[block] for block in blocks),
        attention=attention,
        attention_without_interface=frozenset(
            number for number, path in enumerate(attention) if path and not calls_interface(model.get_submodule(path))
        ),
        causal=bool(backbone.prefix),
        other_keys=backbone.other_keys(model),
        key_value_heads=_key_value_heads(model),
        vision_attention=tuple(_tower_attention(names[block], block) for block in vision_blocks),
        paths=frozenset(name for name in names.values() if name),
        last=names[last] if backbone.last_is_normed else names[blocks[-1]],
        vision=names[vision] if vision is not None else "",
        vision_blocks=tuple(names[block] for block in vision_blocks),
        image_token_id=_token_id(_IMAGE_TOKEN, model.config),
        audio_token_id=_token_id(_AUDIO_TOKEN, model.config, getattr(model.config, "audio_config", None)),
        axes=backbone.axes,
        unreadable=backbone.unreadable,
        parts=tuple(block_parts(names[block], block, own, backbone.part_paths) for block, own in zip(blocks, attention, strict=True)),
        final_norm=None if norm is None else names[decoder.get_submodule(norm)],
        sum_reason=backbone.sum_reason or (BETWEEN_BLOCKS if changed_between_blocks(decoder) else ""),
    )


def _token_id(names: Sequence[str], *configs: object) -> int | None:
    """The id under the first of these names that a configuration has; None: none has."""
    found = (getattr(config, name, None) for config in configs for name in names)
    return next((token for token in found if token is not None), None)


def reads_words(model: PreTrainedModel) -> bool:
    """Whether a model has a decoder of words. A base model, as AutoModel loads it, has one inside; a model with one tower for words and
    one for images has none."""
    if model.can_generate():
        return True
    if hasattr(model, "get_text_features") and hasattr(model, "logit_scale"):
        return False
    return model.get_decoder() is not model and isinstance(_embeddings(model), nn.Embedding)


def _embeddings(model: PreTrainedModel) -> nn.Module | None:
    try:
        found: nn.Module | None = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):  # of models whose input is no table's rows
        return None
    return found


def is_vision_encoder(model: PreTrainedModel) -> bool:
    """Whether a model takes images and has no decoder of words."""
    submodels = (module for module in model.modules() if isinstance(module, PreTrainedModel))
    return any(submodel.main_input_name in _IMAGE_INPUTS for submodel in submodels) and not reads_words(model)


def run_tower(model: PreTrainedModel, inputs: Mapping[str, object]) -> ModelOutput:
    """A vision encoder's forward over images: all of it, or of a model that has a text encoder, too, its image part."""
    if model.main_input_name in _IMAGE_INPUTS:
        return model(**inputs)
    return model.get_image_features(**inputs)


def _vision_encoder(model: PreTrainedModel, names: Mapping[nn.Module, str]) -> Modules:
    """The modules of a vision encoder: its blocks, and no decoder.

    Raises:
        LoadError: no blocks with attention were found.
    """
    vision, blocks = _vision(model, None)
    if vision is None or not (model.main_input_name in _IMAGE_INPUTS or hasattr(model, "get_image_features")):
        raise LoadError(
            f"{type(model).__name__} takes images and no words, and has no list of blocks with attention that probe could read. Give a "
            "vision transformer, such as CLIP, SigLIP, DINOv2, DINOv3 or ViT."
        )
    reason = f"{model.config.model_type} is a vision encoder without a text decoder. Read Vision() or VisionAttention() instead."
    return Modules(
        layers=(),
        attention=(),
        last="",
        vision=names[vision],
        vision_blocks=tuple(names[block] for block in blocks),
        image_token_id=None,
        unreadable=dict.fromkeys(_DECODER_READS, reason),
        vision_attention=tuple(_tower_attention(names[block], block) for block in blocks),
        paths=frozenset(name for name in names.values() if name),
    )


def text_config(model: PreTrainedModel) -> PretrainedConfig:
    """The configuration of the decoder; of a model with code of its own, which may keep it under another name, the decoder's own."""
    config = model.config.get_text_config(decoder=True)
    return config if hasattr(config, "num_hidden_layers") else getattr(model.get_decoder(), "config", config)


def _key_value_heads(model: PreTrainedModel) -> int:
    text = text_config(model)
    if getattr(text, "num_global_key_value_heads", None):  # full and sliding attention differ
        return 0
    heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_attention_heads", None)
    return heads if isinstance(heads, int) else 0


def _tower_attention(path: str, block: nn.Module) -> str | None:
    """The module of a tower's block that calls transformers' attention interface."""
    called = _calling(block)
    return path + called if called else None


def calls_interface(module: nn.Module) -> bool:
    """Whether a module's forward calls transformers' attention interface."""
    kind: type = type(module)
    return _calls_interface(kind)


def _decoder(model: PreTrainedModel) -> tuple[nn.Module, list[nn.Module], nn.Module]:
    """The innermost decoder, its blocks, and the module whose output is the last hidden state.

    The blocks are of the classes whose outputs transformers records as hidden states; the last hidden state is then the decoder's output.
    If transformers records none, the blocks are the list as deep as the configuration says, and the last hidden state is the output of the
    norm after them.
    """
    root = model.get_decoder()
    while isinstance(root, PreTrainedModel) and root.get_decoder() is not root:
        root = root.get_decoder()
    for module in root.modules():
        blocks = _declared_blocks(module)
        if blocks:
            return module, blocks, module
    depth = text_config(model).num_hidden_layers
    for module in root.modules():
        stack = next((child for child in module.children() if isinstance(child, nn.ModuleList) and len(child) == depth), None)
        if stack is not None:
            norms = (child for name, child in module.named_children() if "norm" in name.lower() and "embed" not in name)
            return module, list(stack), next(norms, stack[-1])
    raise LoadError(
        f"{type(model).__name__} has no list of {depth} decoder blocks inside {type(root).__name__}. Register a backbone for it."
    )


def _declared_blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks whose outputs transformers records as this module's hidden states, without those of a model inside it."""
    kinds = tuple(kind for kind, _ in _recorded(module, "hidden_states"))
    return [block for block in _own(module) if isinstance(block, kinds)] if kinds else []


def _own(module: nn.Module) -> Iterator[nn.Module]:
    """The submodules of a module, except for models inside it."""
    for child in module.children():
        if not isinstance(child, PreTrainedModel):
            yield child
            yield from _own(child)


def _recorded(module: nn.Module, output: str) -> list[tuple[type, str]]:
    """The classes whose outputs transformers records under this name, each with the submodule that it has to be in ("": any)."""
    entries = (getattr(module, "_can_record_outputs", None) or {}).get(output, ())
    listed = entries if isinstance(entries, (list, tuple)) else [entries]
    classes = [(getattr(entry, "target_class", entry), getattr(entry, "layer_name", None) or "") for entry in listed]
    return [(kind, name.strip(".")) for kind, name in classes if isinstance(kind, type)]


def _attention(path: str, block: nn.Module, declared: Sequence[tuple[type, str]]) -> str | None:
    """The attention module of a block: of a class that transformers records, or, if it records none, with an attention module's name."""
    for name, module in block.named_modules():
        known = any(isinstance(module, kind) and (not under or f".{under}." in f".{name}.") for kind, under in declared)
        if known or (not declared and name in _ATTENTION):
            return f"{path}.{name}{_calling(module)}"
    return None


def _calling(module: nn.Module) -> str:
    """The path suffix of the submodule that calls transformers' attention interface; "" if it is the module itself."""
    for name, part in module.named_modules():
        kind: type = type(part)
        if _calls_interface(kind):
            return name and f".{name}"
    return ""


@cache
def _calls_interface(kind: type[nn.Module]) -> bool:
    try:
        return "attention_interface" in inspect.getsource(inspect.unwrap(kind.forward))
    except (OSError, TypeError):  # a class without source
        return False


def _vision(model: PreTrainedModel, decoder: nn.Module | None) -> tuple[nn.Module | None, list[nn.Module]]:
    """The vision tower and its blocks; (None, []) if none is found.

    The tower is in the model's image encoder, or else in the first submodel that takes images and does not hold the decoder. Its blocks are
    the longest list of blocks with attention (of equally long ones the last): those that transformers records, or else a ModuleList.
    """
    submodels = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    encoders = [module for module in submodels if getattr(module, "main_input_name", "") in _IMAGE_INPUTS]
    for tower in (model.get_encoder(modality="image"), *encoders):
        if isinstance(tower, nn.Module) and decoder not in set(tower.modules()):
            # An encoder of both the image and the prompt has blocks for words, too.
            parts = [part for part in tower.modules() if not hasattr(part, "embed_tokens")]
            declared = [(part, _declared_blocks(part)) for part in parts]
            listed = [(tower, list(part)) for part in parts if isinstance(part, nn.ModuleList)]
            for stacks in (declared, listed):
                fitting = [(part, blocks) for part, blocks in stacks if any(map(_attends, blocks))]
                if fitting:
                    return max(reversed(fitting), key=lambda stack: len(stack[1]))
    return None, []


def _attends(block: nn.Module) -> bool:
    return any("attn" in name or "attention" in name for name, _ in block.named_modules())
