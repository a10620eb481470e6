"""Opening checkpoints: hub ids and local folders, complete or not at all, with errors that say what is missing."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PretrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from probe.errors import LoadError
from probe.loading.devices import DeviceMap
from probe.loading.files import check_weights, first_line, first_names, locate

Loaded = TypeVar("Loaded")


class LoadingInfo(TypedDict):
    """What `from_pretrained(..., output_loading_info=True, ignore_mismatched_sizes=True)` returns with the model."""

    missing_keys: set[str]
    unexpected_keys: set[str]
    mismatched_keys: set[tuple[str, Sequence[int], Sequence[int]]]


def load_checkpoint(
    name: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None,
    revision: str | None,
    attn_implementation: str,
    device_map: DeviceMap,
    remote_code: bool,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model and processor of a hub id or local folder.

    Args:
        dtype: of the weights; None: the checkpoint's own.

    Raises:
        LoadError: no such folder, half-written, pickled weights only, not an image-text model, remote code that was not asked for; or
            weights that are not complete: tensors missing, left over or of another shape. Tied weights, and names that the model's class
            itself declares as ignorable, do not count.
    """
    checkpoint, folder = locate(name)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": remote_code}
    # Left to transformers, it is sdpa in every part of the model that supports it; asked for by name, a part that does not is an error.
    kernel = None if attn_implementation == "sdpa" else attn_implementation
    config = _as_load_error("configuration", checkpoint, folder, lambda: AutoConfig.from_pretrained(checkpoint, **options))
    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and not remote_code:
        raise _not_image_text(checkpoint, config)
    if folder is not None:
        check_weights(folder)
    with _without_report():
        model, loading_info = _as_load_error(
            "model",
            checkpoint,
            folder,
            lambda: AutoModelForImageTextToText.from_pretrained(
                checkpoint,
                dtype=dtype or "auto",
                attn_implementation=kernel,
                device_map=device_map,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported with the other faults, and refused below
                **options,
            ),
        )
    check_complete(checkpoint, loading_info)
    processor = _as_load_error("processor", checkpoint, folder, lambda: AutoProcessor.from_pretrained(checkpoint, **options))
    return model, processor


@contextmanager
def _without_report() -> Iterator[None]:
    """Suppress transformers' report of missing tensors, which advises to train them: `check_complete` refuses the checkpoint instead."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_other_message(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(is_other_message)
    try:
        yield
    finally:
        logger.removeFilter(is_other_message)


def _as_load_error(what: str, checkpoint: str, folder: Path | None, load: Callable[[], Loaded]) -> Loaded:
    """The result of `load`. Every kind of error that transformers raises becomes a LoadError that says where the fault lies."""
    try:
        return load()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise LoadError(f"{checkpoint} comes with Python code of its own. If you trust it, load it with remote_code=True.") from error
        if folder is not None or not isinstance(error, OSError):
            raise LoadError(
                f"The {what} of {checkpoint} cannot be loaded: {first_line(error)}. Check its files and the options of load()."
            ) from error
        raise LoadError(
            f"There is no folder {checkpoint[:80]!r} here, and as a hub id it cannot be fetched: {first_line(error)[:200]}. "
            "Check the path, or the id and the connection."
        ) from error


def check_complete(name: str, loading_info: LoadingInfo) -> None:
    """Refuse a checkpoint whose tensors are not those of its model: transformers fills what is missing with random numbers.

    Args:
        name: of the checkpoint, for the message.
        loading_info: the tensors that do not fit.

    Raises:
        LoadError: with the first names and the count of the tensors that are missing, left over, or of another shape.
    """
    misshapen = [f"{key} {tuple(found)}, not {tuple(wanted)}" for key, found, wanted in sorted(loading_info["mismatched_keys"])]
    faults = {
        "missing": sorted(loading_info["missing_keys"] - {key for key, *_ in loading_info["mismatched_keys"]}),
        "left over": sorted(loading_info["unexpected_keys"]),
        "of another shape than the configuration says": misshapen,
    }
    if any(faults.values()):
        shown = "; ".join(f"{len(names)} {fault} ({first_names(names)})" for fault, names in faults.items() if names)
        raise LoadError(
            f"The weights of {name} are not those of its model: tensors {shown}. Get the checkpoint again, or the config.json that it "
            "was saved with."
        )


def check_decoder(model: PreTrainedModel) -> None:
    """Refuse a loaded model that has no language decoder.

    Raises:
        LoadError: not a Hugging Face model, a vision tower or text encoder by itself, or a model whose decoder is a part of it that has to be
            given instead.
    """
    kind = type(model).__name__
    if not hasattr(model, "get_decoder") or not hasattr(model, "config"):
        raise LoadError(f"model= is a {kind}, not a Hugging Face model. Load one with AutoModelForImageTextToText.")
    if isinstance(getattr(model, "thinker", None), torch.nn.Module):
        raise LoadError(f"model= is a {kind}, which generates audio as well. Give the part that reads images: model=model.thinker.")
    # A base model, as AutoModel loads it, has a text decoder inside; a tower or a text encoder has one or neither.
    reads_words = model.can_generate() or (
        model.get_decoder() is not model and isinstance(model.get_input_embeddings(), torch.nn.Embedding)
    )
    if not reads_words:
        raise LoadError(
            f"model= is a {kind}, which has no language decoder to look into. Give the whole image-text model, such as "
            "AutoModelForImageTextToText loads."
        )


def _not_image_text(checkpoint: str, config: PretrainedConfig) -> LoadError:
    if hasattr(config, "thinker_config"):
        advice = "Load it with its own class, and give the part that reads images: probe.load(model=model.thinker, processor=processor)."
    else:
        advice = (
            "If it generates text from images, load it with its own class: probe.load(model=model, processor=processor). "
            "Otherwise name an image-text model, such as llava-hf/llava-1.5-7b-hf."
        )
    return LoadError(
        f"{checkpoint} is a {config.model_type!r} model, which transformers' AutoModelForImageTextToText does not open. {advice}"
    )


def refuse_checkpoint_options(revision: str | None, attn_implementation: str, device_map: DeviceMap, remote_code: bool) -> None:
    """Refuse options of a checkpoint that is loaded by name, given with a loaded model."""
    given = {
        "revision": revision is not None,
        "attn_implementation": attn_implementation != "sdpa",
        "device_map": device_map is not None,
        "remote_code": remote_code,
    }
    if any(given.values()):
        names = ", ".join(f"{name}=" for name, is_given in given.items() if is_given)
        raise LoadError(f"{names} cannot change a loaded model=. Give the options to from_pretrained(), or load the model by its name.")
