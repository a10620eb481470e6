"""Hashes of content: of a model's tensors, of named values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from probe.disk import strict_json

_THREADS = 8
"""Tensors that are hashed at once, at most. Each is copied to the CPU first."""


def hash_of_model(model: object) -> str | None:
    """A hash of the names, dtypes, shapes and bytes of a model's tensors; None if it has none."""
    tensors = {
        f"{path}.{name}": tensor
        for path, module in _modules(model)
        for name, tensor in module.state_dict().items()
        if isinstance(tensor, Tensor)
    }
    if not tensors:
        return None
    with ThreadPoolExecutor(min(_THREADS, torch.get_num_threads())) as pool:
        digests = pool.map(_hash_of_bytes, tensors.values())
        described = zip(tensors.items(), digests, strict=True)
        return hash_of_values({name: [str(tensor.dtype), list(tensor.shape), digest] for (name, tensor), digest in described})


def _modules(model: object, path: str = "", depth: int = 2) -> Iterator[tuple[str, nn.Module]]:
    """The modules of an object: itself, or those that it or its parts hold."""
    if isinstance(model, nn.Module):
        yield path, model
    elif depth and hasattr(model, "__dict__"):
        for name, part in vars(model).items():
            yield from _modules(part, f"{path}.{name}", depth - 1)


def _hash_of_bytes(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "offloaded"
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def hash_of_values(parts: Mapping[str, object]) -> str:
    """A hash of named values, whatever their order."""
    return hashlib.sha256(strict_json.dump(sorted(parts.items()))).hexdigest()
