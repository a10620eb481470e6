"""Which class opens a checkpoint: a model of images and text, of text, of sound and text, or a vision encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import transformers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto import modeling_auto

from probe.errors import LoadError

Loader: TypeAlias = "type[PreTrainedModel] | type[AutoModel]"
"""A class with `from_pretrained`: a model's own, or one of transformers' Auto classes."""

_Names: TypeAlias = "Mapping[str, str | tuple[str, ...]]"

_OF_WORDS: tuple[tuple[Loader, _Names], ...] = (
    (AutoModelForImageTextToText, modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
    (AutoModelForMultimodalLM, modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES),
    (AutoModelForCausalLM, modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    (AutoModelForSeq2SeqLM, modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
)
"""The Auto classes of models that write text, and what each opens by `config.model_type`."""

_SAVED_BY_A_DECODER = ("ForCausalLM", "LMHeadModel")
_REMOTE = (
    "AutoModelForImageTextToText",
    "AutoModelForMultimodalLM",
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
    "AutoModel",
)


@dataclass(frozen=True)
class Kind:
    """How a checkpoint is opened.

    Attributes:
        loader: the class.
        config: the configuration to open it with; of a model that speaks, that of its thinker.
        ignored: what the names of tensors begin with that belong to parts which are not opened.
    """

    loader: Loader
    config: PretrainedConfig
    ignored: tuple[str, ...] = ()


def kind_of(checkpoint: str, config: PretrainedConfig, *, remote_code: bool) -> Kind:
    """How a checkpoint of this configuration is opened.

    Args:
        checkpoint: its name, for the message.
        remote_code: whether its own Python code may be run.

    Raises:
        LoadError: it neither writes text nor is a vision encoder, as far as transformers knows.
    """
    remote = _remote(config) if remote_code else None
    if remote is not None:
        return Kind(remote, config)
    thinker = getattr(config, "thinker_config", None)
    if isinstance(thinker, PretrainedConfig):
        return Kind(AutoModelForImageTextToText, thinker, ("talker.", "token2wav.", "code2wav."))
    architecture = (config.architectures or ("",))[0]
    loader = _of_words(config.model_type, architecture)
    if loader is None and config.model_type in modeling_auto.MODEL_MAPPING_NAMES and _has_tower(config):
        loader = _own_class(architecture)
    if loader is None:
        raise LoadError(_neither(checkpoint, config, architecture))
    return Kind(loader, config)


def _remote(config: PretrainedConfig) -> Loader | None:
    """The Auto class under which a checkpoint with code of its own names its model; None: it names none."""
    named = getattr(config, "auto_map", None) or {}
    known = next((name for name in _REMOTE if name in named), None)
    return getattr(transformers, known) if known else None


def _of_words(family: str, architecture: str) -> Loader | None:
    """The Auto class of a model that writes text; None: it is none, as the encoder BERT, whose configuration is a decoder's, too.

    Args:
        architecture: the class that saved the checkpoint; "" if that is not known.
    """
    fitting = {loader: names[family] for loader, names in _OF_WORDS if family in names}
    for loader, known in fitting.items():
        if architecture in ((known,) if isinstance(known, str) else known):
            return loader
    if AutoModelForImageTextToText in fitting or not architecture:
        return next(iter(fitting), None)
    return AutoModelForCausalLM if AutoModelForCausalLM in fitting and architecture.endswith(_SAVED_BY_A_DECODER) else None


def _has_tower(config: PretrainedConfig) -> bool:
    return any(hasattr(config, name) for name in ("vision_config", "patch_size"))


def _own_class(architecture: str) -> Loader:
    """The class that saved a checkpoint, so that no part of it is left over; AutoModel, where transformers has no such class."""
    known = getattr(transformers, architecture, None) if architecture else None
    return known if isinstance(known, type) and issubclass(known, PreTrainedModel) else AutoModel


def _neither(checkpoint: str, config: PretrainedConfig, architecture: str) -> str:
    return (
        f"{checkpoint} is a {config.model_type!r} model{architecture and f' ({architecture})'}, which transformers opens neither as one that "
        "writes text nor as a vision encoder. If it does either, load it with its own class: probe.load(model=model, processor=processor). "
        "Otherwise name a model of text or images, such as llava-hf/llava-1.5-7b-hf."
    )
