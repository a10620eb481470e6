"""Opening checkpoints: hub ids and local folders, complete or not at all, with errors that say what is missing."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from probe.errors import DeviceNotFound, LoadError

Loaded = TypeVar("Loaded")

_NAMED = 3  # tensors that an error names, of each kind


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device of this name; the CPU by default.

    Raises:
        DeviceNotFound: this machine has no such device; those it has are named.
    """
    try:
        resolved = torch.device(device or "cpu")
    except (RuntimeError, TypeError) as error:
        raise DeviceNotFound(f"No device {device!r}. Names are cpu, cuda, cuda:0, mps.") from error
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    named = f"cuda:{resolved.index or 0}" if resolved.type == "cuda" else resolved.type
    if resolved.type in ("cpu", "cuda", "mps") and named not in there:
        raise DeviceNotFound(f"Device {str(resolved)!r} was asked for, this machine has {', '.join(there)}.")
    return resolved


def resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The dtype of this name, such as "bfloat16"; None stays None."""
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else None
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise LoadError(f"No dtype {dtype!r}. Use float32, bfloat16, float16 or float64.")
    return found


def default_dtype(device: torch.device, device_map: Any) -> torch.dtype | None:
    """float32 for a model that will lie on the CPU; None, the checkpoint's own, elsewhere.

    Args:
        device: where the model goes without a `device_map`.
        device_map: accelerate's.
    """
    if device_map is None:
        places = [device.type]
    elif isinstance(device_map, Mapping):
        places = [str(place) for place in device_map.values()]
    elif device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        places = ["accelerator" if torch.accelerator.is_available() else "cpu"]
    else:
        places = [str(device_map)]
    return torch.float32 if all(place == "cpu" for place in places) else None


def load_checkpoint(
    name: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None,
    revision: str | None,
    attn_implementation: str,
    device_map: Any,
    remote_code: bool,
) -> tuple[Any, Any]:
    """The model and processor of a hub id or local folder.

    Args:
        dtype: of the weights; None: the checkpoint's own.

    Raises:
        LoadError: no such folder, half-written, pickled weights only, not an image-text model, remote code that was not asked for; or
            weights that are not complete: tensors missing, left over or of another shape. Tied weights, and names that the model's class
            itself declares as ignorable, do not count.
    """
    place, folder = _located(name)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": remote_code}
    # Left to transformers, it is sdpa in every part of the model that supports it; asked for by name, a part that does not is an error.
    kernel = None if attn_implementation == "sdpa" else attn_implementation
    config = _in_our_words("configuration", place, folder, lambda: AutoConfig.from_pretrained(place, **options))
    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and not remote_code:
        raise _not_image_text(place, config)
    if folder is not None:
        check_weights(folder)
    with _without_report():
        model, told = _in_our_words(
            "model",
            place,
            folder,
            lambda: AutoModelForImageTextToText.from_pretrained(
                place,
                dtype=dtype or "auto",
                attn_implementation=kernel,
                device_map=device_map,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are reported with the others, and refused with them
                **options,
            ),
        )
    check_complete(place, told)
    processor = _in_our_words("processor", place, folder, lambda: AutoProcessor.from_pretrained(place, **options))
    return model, processor


@contextmanager
def _without_report() -> Iterator[None]:
    """Without transformers' own report of missing tensors, which advises to train them: `check_complete` refuses the checkpoint."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_no_report(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(is_no_report)
    try:
        yield
    finally:
        logger.removeFilter(is_no_report)


def check_decoder(model: Any) -> None:
    """Refuse a loaded model without a language decoder to look into.

    Raises:
        LoadError: not a Hugging Face model, a vision tower or text encoder by itself, or a model whose decoder is a part of it that has to be
            given instead.
    """
    kind = type(model).__name__
    if not hasattr(model, "get_decoder") or not hasattr(model, "config"):
        raise LoadError(f"model= is a {kind}, not a Hugging Face model. Load one with AutoModelForImageTextToText.")
    if isinstance(getattr(model, "thinker", None), torch.nn.Module):
        raise LoadError(f"model= is a {kind}, which speaks as well. Give the part that reads images: model=model.thinker.")
    # A base model, as AutoModel loads it, has a decoder of words inside; a tower or a text encoder has one or neither.
    reads_words = model.can_generate() or (
        model.get_decoder() is not model and isinstance(model.get_input_embeddings(), torch.nn.Embedding)
    )
    if not reads_words:
        raise LoadError(
            f"model= is a {kind}, which has no language decoder to look into. Give the whole image-text model, such as "
            "AutoModelForImageTextToText loads."
        )


def check_complete(name: str, told: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose tensors are not those of its model: transformers fills what is missing with random numbers.

    Args:
        name: of the checkpoint, for the message.
        told: what `from_pretrained(..., output_loading_info=True, ignore_mismatched_sizes=True)` returns beside the model.

    Raises:
        LoadError: with the first names and the count of the tensors that are missing, left over, or of another shape.
    """
    misshapen = [f"{key} {tuple(there)}, not {tuple(wanted)}" for key, there, wanted in sorted(told["mismatched_keys"])]
    faults = {
        "missing": sorted(told["missing_keys"] - {key for key, *_ in told["mismatched_keys"]}),
        "left over": sorted(told["unexpected_keys"]),
        "of another shape than the configuration says": misshapen,
    }
    if any(faults.values()):
        shown = "; ".join(f"{len(names)} {fault} ({_first(names)})" for fault, names in faults.items() if names)
        raise LoadError(
            f"The weights of {name} are not those of its model: tensors {shown}. Get the checkpoint again, or the config.json that it "
            "was saved with."
        )


def _first(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _located(name: str | os.PathLike[str]) -> tuple[str, Path | None]:
    """What transformers is given, and the folder that it is, if it is one.

    Raises:
        LoadError: not a name at all, a web address, or a folder that is no saved model.
    """
    if not isinstance(name, (str, os.PathLike)) or not os.fspath(name):
        given = "an empty name" if isinstance(name, str) else f"a {type(name).__name__} as its name"
        raise LoadError(f"load() got {given}. A hub id or a folder goes there; a loaded model goes into model=.")
    place = os.path.expanduser(os.fspath(name))
    if "://" in place:
        raise LoadError(f"{place} is a web address. Give the hub id behind it, such as llava-hf/llava-1.5-7b-hf, or a local folder.")
    try:
        is_folder = isinstance(name, os.PathLike) or place.startswith((".", "/")) or os.path.exists(place)
        if is_folder:
            check_folder(Path(place))
    except (OSError, ValueError) as error:
        raise LoadError(f"{place[:80]!r} is no name of a folder or a hub id: {error}. Check the name.") from error
    return place, Path(place) if is_folder else None


def check_folder(folder: Path) -> None:
    """Refuse a path that is no folder of a saved model, or one whose weights could only be unpickled.

    Raises:
        LoadError: what is missing is named.
    """
    if not folder.is_dir():
        raise LoadError(f"No model folder {str(folder)!r}. Check the path, or give a hub id such as llava-hf/llava-1.5-7b-hf.")
    if not (folder / "config.json").is_file():
        raise LoadError(f"The folder {str(folder)!r} has no config.json: it is not a saved model. Save one there with save_pretrained().")
    if not any(folder.glob("*.safetensors")):
        pickled = [path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth")]
        if pickled:
            raise LoadError(
                f"The folder {str(folder)!r} has pickled weights only ({pickled[0]}), which can run code when opened. "
                "Convert them: load with transformers and save_pretrained()."
            )
        raise LoadError(
            f"The folder {str(folder)!r} has a config.json and no *.safetensors: the download or the save was cut short. Get it again."
        )


def check_weights(folder: Path) -> None:
    """Every weight file is there, and as long as its header says.

    Raises:
        LoadError: one is missing or damaged.
    """
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):  # reads the header alone
                continue
        except (SafetensorError, OSError) as error:
            raise LoadError(f"{str(path)!r} is damaged or cut short ({_line(error)}). Get the file again.") from error
    absent = sorted(_indexed(folder / "model.safetensors.index.json") - {path.name for path in folder.iterdir()})
    if absent:
        raise LoadError(f"The folder {str(folder)!r} lacks {len(absent)} of its weight files ({_first(absent)}). Get them again.")


def _indexed(index: Path) -> set[str]:
    """The weight files that an index names; none where there is no index."""
    if not index.is_file():
        return set()
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"{str(index)!r} is no index of weight files ({_line(error)}). Get the file again.") from error


def _in_our_words(what: str, place: str, folder: Path | None, load: Callable[[], Loaded]) -> Loaded:
    """What transformers loads; its errors, of which there are many kinds, as a LoadError that says where the fault lies."""
    try:
        return load()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise LoadError(f"{place} comes with Python code of its own. If you trust it, load it with remote_code=True.") from error
        if folder is not None or not isinstance(error, OSError):
            raise LoadError(
                f"The {what} of {place} cannot be loaded: {_line(error)}. Check its files and the options of load()."
            ) from error
        raise LoadError(
            f"There is no folder {place[:80]!r} here, and as a hub id it cannot be fetched: {_line(error)[:200]}. "
            "Check the path, or the id and the connection."
        ) from error


def _line(error: Exception) -> str:
    """An error's first line, without its full stop."""
    return str(error).strip().partition("\n")[0].rstrip(" .:") or type(error).__name__


def _not_image_text(place: str, config: Any) -> LoadError:
    if hasattr(config, "thinker_config"):
        advice = "Load it with its own class, and give the part that reads images: probe.load(model=model.thinker, processor=processor)."
    else:
        advice = (
            "If it generates text from images, load it with its own class: probe.load(model=model, processor=processor). "
            "Otherwise name an image-text model, such as llava-hf/llava-1.5-7b-hf."
        )
    return LoadError(f"{place} is a {config.model_type!r} model, which transformers' AutoModelForImageTextToText does not open. {advice}")
