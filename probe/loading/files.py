"""The files of a checkpoint: a folder that is complete, or an error that says what is missing."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from probe.errors import LoadError

_NAMED = 3  # names that an error lists, of each kind


def locate(name: str | os.PathLike[str]) -> tuple[str, Path | None]:
    """The name for transformers, and the folder, if it names one.

    Raises:
        LoadError: not a name at all, a web address, or a folder that is no saved model.
    """
    if not isinstance(name, (str, os.PathLike)) or not os.fspath(name):
        given = "an empty name" if isinstance(name, str) else f"a {type(name).__name__} as its name"
        raise LoadError(f"load() got {given}. A hub id or a folder goes there; a loaded model goes into model=.")
    path = os.path.expanduser(os.fspath(name))
    if "://" in path:
        raise LoadError(f"{path} is a web address. Give the hub id behind it, such as llava-hf/llava-1.5-7b-hf, or a local folder.")
    try:
        is_folder = isinstance(name, os.PathLike) or path.startswith((".", "/")) or os.path.exists(path)
        if is_folder:
            check_folder(Path(path))
    except (OSError, ValueError) as error:
        raise LoadError(f"{path[:80]!r} is no name of a folder or a hub id: {error}. Check the name.") from error
    return path, Path(path) if is_folder else None


def check_folder(folder: Path) -> None:
    """Refuse a path that is no folder of a saved model, or one whose weights could only be unpickled.

    Raises:
        LoadError: what is missing is named.
    """
    if not folder.is_dir():
        raise LoadError(f"No model folder {str(folder)!r}. Check the path, or give a hub id such as llava-hf/llava-1.5-7b-hf.")
    if not (folder / "config.json").is_file():
        raise LoadError(f"The folder {str(folder)!r} has no config.json: {_instead(folder)}")
    _check_config(folder / "config.json")
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


def _instead(folder: Path) -> str:
    """What a folder without a config.json is, and what to do."""
    names = sorted(path.name for path in folder.iterdir())
    if "model_index.json" in names:
        parts = [path.parent.name for path in sorted(folder.glob("*/config.json"))]
        return (
            f"it is a diffusion pipeline, of which probe reads none. Of its parts ({', '.join(parts) or 'none here'}) a text or image "
            "encoder can be loaded with transformers and given as model=."
        )
    if "adapter_config.json" in names:
        return "it is an adapter without its model. Load the model, put the adapter on it with peft, and give it as model=."
    if any(name.endswith(".gguf") for name in names):
        return "it has a GGUF file, which probe does not read. Get the checkpoint in safetensors."
    held = f"it has {', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}" if names else "it is empty"
    return f"it is not a saved model ({held}). Save one there with save_pretrained()."


def _check_config(path: Path) -> None:
    """Refuse a config.json that names no architecture of transformers.

    Raises:
        LoadError: it is no JSON object, or has no `model_type`; the message says whose it is, if that can be seen.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        family = config.get("model_type")
    except (ValueError, AttributeError) as error:
        raise LoadError(f"{str(path)!r} is no configuration ({first_line(error)}). Get the file again.") from error
    if family or {"auto_map", "pretrained_cfg"} & set(config):
        return
    if "_diffusers_version" in config:
        raise LoadError(
            f"{str(path)!r} is of a {config.get('_class_name', 'part')} of diffusers, which is no model of transformers. "
            "Load a model of text or images."
        )
    raise LoadError(
        f"{str(path)!r} has no model_type (its keys: {first_names(sorted(config)) or 'none'}), so its architecture is not known. "
        "Save the model with transformers' save_pretrained()."
    )


def check_weights(folder: Path) -> None:
    """Check that every weight file is there, and as long as its header says.

    Raises:
        LoadError: one is missing or damaged.
    """
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):  # reads the header alone
                continue
        except (SafetensorError, OSError) as error:
            raise LoadError(f"{str(path)!r} is damaged or cut short ({first_line(error)}). Get the file again.") from error
    absent = sorted(_indexed(folder / "model.safetensors.index.json") - {path.name for path in folder.iterdir()})
    if absent:
        raise LoadError(f"The folder {str(folder)!r} lacks {len(absent)} of its weight files ({first_names(absent)}). Get them again.")


def _indexed(index: Path) -> set[str]:
    """The weight files that an index names; none where there is no index."""
    if not index.is_file():
        return set()
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"{str(index)!r} is no index of weight files ({first_line(error)}). Get the file again.") from error


def first_names(names: Sequence[str]) -> str:
    """The first few names, for messages."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def first_line(error: Exception) -> str:
    """An error's first line, without its full stop."""
    return str(error).strip().partition("\n")[0].rstrip(" .:") or type(error).__name__
