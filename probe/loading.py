"""Opening checkpoints: hub ids and local folders, with errors that say what is missing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from probe.errors import DeviceNotFound, LoadError


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device of this name; the CPU by default.

    Raises:
        DeviceNotFound: this machine has no such device; those it has are named.
    """
    try:
        resolved = torch.device(device or "cpu")
    except RuntimeError as error:
        raise DeviceNotFound(f"No device {device!r}. Names are cpu, cuda, cuda:0, mps.") from error
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    named = f"cuda:{resolved.index or 0}" if resolved.type == "cuda" else resolved.type
    if resolved.type in ("cpu", "cuda", "mps") and named not in there:
        raise DeviceNotFound(f"Device {str(resolved)!r} was asked for, this machine has {', '.join(there)}.")
    return resolved


def resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The dtype of this name, such as "bfloat16"; None: the checkpoint's own on an accelerator, float32 on the CPU."""
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise LoadError(f"No dtype {dtype!r}. Use float32, bfloat16, float16 or float64.")
    return found


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

    Raises:
        LoadError: no such folder, half-written, pickled weights only, not an image-text model, or remote code that was not asked for.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise LoadError(
            f"load() got a {type(name).__name__} as its name. A hub id or a folder goes there; a loaded model goes into model=."
        )
    given, name = name, os.path.expanduser(os.fspath(name))
    if isinstance(given, os.PathLike) or os.path.exists(name) or name.startswith((".", "/")):
        _check_folder(Path(name))
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": remote_code}
    # Left to transformers, it is sdpa in every part of the model that supports it; asked for by name, a part that does not is an error.
    kernel = None if attn_implementation == "sdpa" else attn_implementation
    try:
        config = AutoConfig.from_pretrained(name, **options)
        if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and not remote_code:
            raise LoadError(
                f"{name} is a {config.model_type!r} model, which takes no images. Name an image-text model, such as llava-hf/llava-1.5-7b-hf."
            )
        model = AutoModelForImageTextToText.from_pretrained(
            name, dtype=dtype or "auto", attn_implementation=kernel, device_map=device_map, use_safetensors=True, **options
        )
        processor = AutoProcessor.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "trust_remote_code" in str(error):
            raise LoadError(f"{name} comes with Python code of its own. If you trust it, load it with remote_code=True.") from error
        raise LoadError(
            f"{name} cannot be loaded: {first} Check the name, the files, and that a hub id can be downloaded from here."
        ) from error
    return model, processor


def _check_folder(folder: Path) -> None:
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
