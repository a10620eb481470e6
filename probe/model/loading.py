"""`load` opens a model."""

from __future__ import annotations

import os

import torch
from transformers import PreTrainedModel

from probe.encoder import Encoder, ImagePreparation, Resize
from probe.errors import LoadError
from probe.inputs.processors import Processor
from probe.loading.checkpoint import check_model, load_checkpoint, refuse_checkpoint_options
from probe.loading.devices import DeviceMap, default_dtype, resolve_device, resolve_dtype
from probe.model.facade import Probe
from probe.runtime import Runtime


def load(
    name: str | os.PathLike[str] | None = None,
    *,
    model: PreTrainedModel | None = None,
    processor: Processor | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    attn_implementation: str = "sdpa",
    device_map: DeviceMap = None,
    resize: Resize = "processor",
    tiles: bool = True,
    remote_code: bool = False,
) -> Probe:
    """A model, loaded for reading its activations: of images and text, of text alone, of sound and text, or a vision encoder.

    Args:
        name: a hub id or a local folder; or
        model, processor: a loaded Hugging Face model and, optionally, its processor (a tokenizer or an image processor, of models that
            have no more). The model is put into eval mode and its weights no longer require gradients.
        device: "cpu", "cuda", "cuda:1"...; None: the CPU, or where a loaded model is. Not together with `device_map`.
        dtype: "float32", "bfloat16"...; None: float32 on the CPU, the checkpoint's own elsewhere.
        attn_implementation: the kernel; attention rows are exact under each that uses transformers' attention interface. "sdpa": eager in
            parts of a model that do not support it.
        device_map: accelerate's, for models larger than one device.
        resize: "processor", what the checkpoint's own processor does; "stretch", the whole image directly at the tower's input size; or "pad", the
            same of the image in the middle of a square of the tower's mean colour.
        tiles: False: the base view alone, for families that cut images into tiles.
        remote_code: run Python code that comes with the checkpoint. Off unless asked for.

    Raises:
        LoadError: there is no whole model, or its code was not to be run.
        DeviceNotFound: this machine has no such device.

    >>> from fseg.glyphs import llava_folder
    >>> probe.load(llava_folder(), resize="stretch", tiles=False).family
    'llava'
    """
    preparation = ImagePreparation(resize, tiles)
    if (name is None) == (model is None):
        raise LoadError("load() takes a name (a hub id or a folder) or a loaded model=, one of them.")
    if model is None:
        assert name is not None
        if device is not None and device_map is not None:
            raise LoadError(f"device={device!r} and device_map={device_map!r} both say where the model goes. Give one of them.")
        where = resolve_device(device)
        wanted = resolve_dtype(dtype) or default_dtype(where, device_map)
        model, processor = load_checkpoint(
            name,
            dtype=wanted,
            revision=revision,
            attn_implementation=attn_implementation,
            device_map=device_map,
            remote_code=remote_code,
            processor=processor,
        )
        if device_map is None:
            model = model.to(where)
    else:
        refuse_checkpoint_options(revision, attn_implementation, device_map, remote_code)
        check_model(model)
        if device is not None or dtype is not None:
            model = model.to(device=resolve_device(device) if device else None, dtype=resolve_dtype(dtype))
        name = model.config._name_or_path or type(model).__name__
    model.eval().requires_grad_(False)
    runtime = Runtime(model)
    return Probe(runtime, Encoder(runtime, processor, preparation), str(name), revision or getattr(model.config, "_commit_hash", None))
