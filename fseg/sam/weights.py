"""The tensors of a file of SAM weights: read without running code, complete and finite."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from fseg.errors import InvalidSam
from probe.tracing.capturing.finite import FiniteCheck

ACCEPTED = "Pass weights of segment-anything's Sam class (such as sam_vit_h_4b8939.pth), or a hub id such as facebook/sam-vit-huge."


def read_weights(path: Path) -> dict[str, Tensor]:
    """The named tensors of a `.safetensors` file or of a PyTorch file, as float32 on the CPU.

    PyTorch files are read without running any code from them (`weights_only=True`), after their checksums have been verified.

    Raises:
        InvalidSam: the file is truncated or damaged, holds code, or is something else than a mapping of names to tensors of numbers.
    """
    try:
        state = load_file(path) if path.suffix == ".safetensors" else _read_pytorch(path)
    except pickle.UnpicklingError as error:
        raise InvalidSam(
            f"{path} is not a file of plain tensors: it holds other objects, whose code we do not run, or is no PyTorch file. {ACCEPTED}"
        ) from error
    except InvalidSam:
        raise
    except Exception as error:  # a damaged file can stop a reader in any way
        raise InvalidSam(
            f"{path} ({path.stat().st_size:,} bytes) does not read as weights; it may be truncated: download or copy it again. {ACCEPTED}"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        content = f"a mapping with the keys {some(map(str, state))}" if isinstance(state, Mapping) else f"a {type(state).__name__}"
        raise InvalidSam(f"{path} holds {content}, and weights are a mapping of names to tensors. {ACCEPTED}")
    other = [str(name) for name, value in state.items() if not (isinstance(name, str) and _is_plain(value))]
    if other:
        raise InvalidSam(f"{path} holds tensors that are not plain numbers with a fraction, under plain names: {some(other)}. {ACCEPTED}")
    return {name: value.float() for name, value in state.items()}


def _read_pytorch(path: Path) -> object:
    if zipfile.is_zipfile(path):  # every file since PyTorch 1.6; torch.load itself does not look at the checksums of the tensors
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise InvalidSam(
                f"{path} is damaged: the checksum of its part {damaged!r} does not hold. Download or copy it again. {ACCEPTED}"
            )
    return torch.load(path, map_location="cpu", weights_only=True)


def _is_plain(value: Tensor) -> bool:
    return value.is_floating_point() and value.layout is torch.strided and not value.is_meta


def check_finite(name: object, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not finite.

    Raises:
        InvalidSam: NaN or infinity in a tensor; the first are named.
    """
    check = FiniteCheck[str]()
    for tensor, values in tensors.items():
        check.add(tensor, values)
    if broken := check.failed():
        raise InvalidSam(
            f"{name} has NaN or infinity in {len(broken)} of its {len(tensors)} tensors ({some(broken)}). Get the weights again."
        )


def some(names: Iterable[str], most: int = 3) -> str:
    """The first names of many."""
    listed = list(names)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")
