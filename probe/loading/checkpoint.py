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
from transformers import AutoConfig, AutoProcessor, PreTrainedModel, __version__

from probe.errors import LoadError
from probe.inputs.processors import Processor
from probe.loading.devices import DeviceMap
from probe.loading.files import check_weights, first_line, first_names, locate
from probe.loading.kinds import kind_of
from probe.tracing.modules import is_vision_encoder, reads_words

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
    processor: Processor | None = None,
) -> tuple[PreTrainedModel, Processor]:
    """The model and processor of a hub id or local folder.

    Args:
        dtype: of the weights; None: the checkpoint's own.
        processor: taken instead of the checkpoint's own.

    Raises:
        LoadError: no such folder, half-written, pickled weights only, neither a model that writes text nor a vision encoder, remote code
            that was not asked for; or
            weights that are not complete: tensors missing, left over or of another shape. Tied weights, and names that the model's class
            itself declares as ignorable, do not count.
    """
    checkpoint, folder = locate(name)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": remote_code}
    # Left to transformers, it is sdpa in every part of the model that supports it; asked for by name, a part that does not is an error.
    kernel = None if attn_implementation == "sdpa" else attn_implementation
    config = _as_load_error("configuration", checkpoint, folder, lambda: AutoConfig.from_pretrained(checkpoint, **options))
    kind = kind_of(checkpoint, config, remote_code=remote_code)
    if folder is not None:
        check_weights(folder)
    with _without_report():
        model, loading_info = _as_load_error(
            "model",
            checkpoint,
            folder,
            lambda: kind.loader.from_pretrained(
                checkpoint,
                config=kind.config,
                dtype=dtype or "auto",
                attn_implementation=kernel,
                device_map=device_map,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported with the other faults, and refused below
                **options,
            ),
        )
    loading_info["unexpected_keys"] = {key for key in loading_info["unexpected_keys"] if not key.startswith(kind.ignored)}
    check_complete(checkpoint, loading_info)
    check_model(model)
    if processor is None:
        processor = _as_load_error(
            "processor",
            checkpoint,
            folder,
            lambda: AutoProcessor.from_pretrained(checkpoint, **options),
            "or give one: probe.load(name, processor=...)",
        )
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


def _as_load_error(what: str, checkpoint: str, folder: Path | None, load: Callable[[], Loaded], otherwise: str = "") -> Loaded:
    """The result of `load`. Every kind of error that transformers raises becomes a LoadError that says where the fault lies."""
    try:
        return load()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise LoadError(f"{checkpoint} comes with Python code of its own. If you trust it, load it with remote_code=True.") from error
        if "does not recognize this architecture" in str(error):
            raise LoadError(
                f"{checkpoint} is of an architecture that transformers {__version__} does not have: {first_line(error)}. Install a newer "
                "transformers, or, if the checkpoint comes with Python code of its own that you trust, load it with remote_code=True."
            ) from error
        if folder is not None or not isinstance(error, OSError):
            raise LoadError(
                f"The {what} of {checkpoint} cannot be loaded: {first_line(error)}. Check its files and the options of load()"
                f"{otherwise and f', {otherwise}'}."
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


def check_model(model: PreTrainedModel) -> None:
    """Refuse a loaded model that is neither a decoder of words nor a vision encoder.

    Raises:
        LoadError: not a Hugging Face model, an encoder of words or sound, or a model whose decoder is a part of it that has to be given
            instead.
    """
    kind = type(model).__name__
    if not hasattr(model, "get_decoder") or not hasattr(model, "config"):
        raise LoadError(
            f"model= is a {kind}, not a Hugging Face model. Load one with transformers, such as with AutoModelForImageTextToText or "
            "AutoModelForCausalLM."
        )
    if isinstance(getattr(model, "thinker", None), torch.nn.Module):
        raise LoadError(f"model= is a {kind}, which generates audio as well. Give the part that reads images: model=model.thinker.")
    if not reads_words(model) and not is_vision_encoder(model):
        raise LoadError(
            f"model= is a {kind}, which takes {model.main_input_name} and has no language decoder to look into, nor is it a vision encoder. "
            "Give the whole model, such as AutoModelForImageTextToText or AutoModelForCausalLM loads."
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
