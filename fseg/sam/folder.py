"""SAM in the form of transformers: a local folder or a hub id."""

from __future__ import annotations

from os.path import isdir
from pathlib import Path

import probe._torchvision  # noqa: F401  torchvision has to be importable before transformers asks for it

# isort: split

import torch
from transformers import PretrainedConfig, SamModel

from fseg.errors import InvalidSam
from fseg.sam.weights import check_finite
from probe.errors import LoadError
from probe.loading.checkpoint import check_complete
from probe.loading.files import check_folder, check_weights


def from_transformers(name: str) -> SamModel:
    """`SamModel.from_pretrained` in float32, complete and finite; only safetensors are read, since a pickle can run code.

    Args:
        name: a folder, whose files are checked before transformers sees them, or a hub id.

    Raises:
        InvalidSam: a file is missing or damaged, is not a SAM's, or the weights are not those that the configuration asks for.
    """
    local = isdir(name)
    try:
        if local:
            check_folder(Path(name))
        kind = PretrainedConfig.get_config_dict(name, local_files_only=local)[0].get("model_type")
        if kind != "sam":
            raise InvalidSam(
                f"The config.json of {name} should name the model type 'sam', and names {kind!r}. Give a SAM such as facebook/sam-vit-huge."
            )
        if local:
            check_weights(Path(name))
        model, told = SamModel.from_pretrained(
            name,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=local,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are reported with the others, and refused with them
        )
        check_complete(name, told)
    except InvalidSam:
        raise
    except LoadError as error:
        raise InvalidSam(f"{name} is no SAM. {error}") from error
    except Exception as error:  # a configuration can ask for anything, and what transformers makes of that can fail in any way
        raise _not_loaded(name, local, error) from error
    check_finite(name, {**dict(model.named_parameters()), **dict(model.named_buffers())})
    return model.eval().requires_grad_(False)


def _not_loaded(name: str, local: bool, error: Exception) -> InvalidSam:
    reason = str(error).strip().partition("\n")[0].rstrip(" .:") or type(error).__name__
    if local:
        return InvalidSam(f"No SAM could be loaded from the folder {name!r}: {reason}. Check its config.json, or save the model again.")
    return InvalidSam(
        f"No SAM could be loaded from {name!r}: {reason}. There is no such folder here, so it was looked for on the hub. Give a folder, a "
        ".pth file of segment-anything, or a hub id while the hub can be reached (facebook/sam-vit-huge)."
    )
