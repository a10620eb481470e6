"""Whole runs with patched states, as one writes them without probe: under forward hooks, with raw nnsight, with TransformerLens's bridge."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import nnsight
import torch
from torch import Tensor, nn

import probe

Run = tuple[int, tuple[int, ...]]
"""A block, and the positions that are patched in what it receives."""
Patched = Callable[[Sequence[Run]], Tensor]
"""The metric of each run, float32; beside them it runs the clean and the corrupt input themselves."""
ONE: dict[str, Any] = {"use_cache": False, "logits_to_keep": 1}
"""Of every run: no cache, and logits at the last position alone."""


def patched_by(model: probe.Probe, clean: probe.Encoding, corrupt: probe.Encoding, metric: probe.LogitDifference) -> dict[str, Patched]:
    """Each way by its name. Each has a model of its own over the same weights, so that none runs through what another one installs."""
    inputs = dict(clean.inputs), dict(corrupt.inputs)

    def measured(logits: Tensor) -> Tensor:
        return (logits[0, -1, metric.plus] - logits[0, -1, metric.minus]).float()

    made: dict[str, Callable[..., Patched]] = {"hooks": _hooks, "nnsight": _nnsight}
    if find_spec("transformer_lens") is None:
        print("TransformerLens is not installed, and its columns are left out: pip install -c constraints.txt -e '.[test,bench]'")
    else:
        made["TransformerLens"] = _transformer_lens
    return {name: make(_twin(model.model), *inputs, model.modules.layers, measured) for name, make in made.items()}


def named_with_version(name: str) -> str:
    """A way's name, with a version where the machine's description has none."""
    return f"{name} {version('transformer-lens')}" if name == "TransformerLens" else name


def _twin(model: nn.Module) -> nn.Module:
    """Another Hugging Face model over the same weights, in their memory."""
    with torch.device("meta"):
        twin: nn.Module = type(model)(copy.deepcopy(model.config))
    twin.load_state_dict(model.state_dict(), assign=True)
    for name, buffer in model.named_buffers():  # a state dict has not all of them
        path, _, last = name.rpartition(".")
        twin.get_submodule(path).register_buffer(last, buffer, persistent=False)
    return twin.eval()


def _hooks(
    model: nn.Module, clean: Mapping[str, Tensor], corrupt: Mapping[str, Tensor], paths: Sequence[str], metric: Callable[[Tensor], Tensor]
) -> Patched:
    """Plain Hugging Face: the clean run's states kept by hooks, then one run with a hook for each place."""
    blocks = [model.get_submodule(path) for path in paths]

    @torch.no_grad()
    def runs_of(runs: Sequence[Run]) -> Tensor:
        kept: dict[int, Tensor] = {}
        hooks = [
            block.register_forward_pre_hook(lambda _, given, number=number: kept.update({number: given[0].clone()}))
            for number, block in enumerate(blocks)
        ]
        model(**clean, **ONE)
        for hook in hooks:
            hook.remove()
        values = []
        model(**corrupt, **ONE)
        for layer, positions in runs:
            at = torch.tensor(positions, device=kept[layer].device)

            def patch(_: Any, given: Any, layer: int = layer, at: Tensor = at) -> Any:
                states = given[0].clone()
                states[:, at] = kept[layer][:, at]
                return (states, *given[1:])

            hook = blocks[layer].register_forward_pre_hook(patch)
            values.append(metric(model(**corrupt, **ONE).logits))
            hook.remove()
        return torch.stack(values).cpu()

    return runs_of


def _nnsight(
    model: nn.Module, clean: Mapping[str, Tensor], corrupt: Mapping[str, Tensor], paths: Sequence[str], metric: Callable[[Tensor], Tensor]
) -> Patched:
    """nnsight alone: one trace that saves the clean states, then one trace for each place that assigns them there."""
    sight = nnsight.NNsight(model)
    blocks = [sight.get(path) for path in paths]

    @torch.no_grad()
    def runs_of(runs: Sequence[Run]) -> Tensor:
        with sight.trace(**clean, **ONE):
            kept = nnsight.save([block.input.clone() for block in blocks])
        with sight.trace(**corrupt, **ONE):
            pass
        values = []
        for layer, positions in runs:
            at = list(positions)
            with sight.trace(**corrupt, **ONE):
                blocks[layer].input[:, at] = kept[layer][:, at]
                logits = sight.output.logits.save()
            values.append(metric(logits))
        return torch.stack(values).cpu()

    return runs_of


def _transformer_lens(
    model: nn.Module, clean: Mapping[str, Tensor], corrupt: Mapping[str, Tensor], paths: Sequence[str], metric: Callable[[Tensor], Tensor]
) -> Patched:
    """TransformerLens: the clean states from `run_with_cache`, then `run_with_hooks` for each place. The bridge sets eager attention."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    # As `TransformerBridge.boot_transformers(name, hf_model=model)`, without the search for a tokenizer and a processor of that name.
    bridge = build_bridge_from_module(model, type(model).__name__, hf_config=model.config)
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(len(paths))]
    (clean_ids, clean_rest), (corrupt_ids, corrupt_rest) = (
        (inputs["input_ids"], {name: value for name, value in inputs.items() if name != "input_ids"}) for inputs in (clean, corrupt)
    )

    @torch.no_grad()
    def runs_of(runs: Sequence[Run]) -> Tensor:
        _, kept = bridge.run_with_cache(clean_ids, names_filter=names, **clean_rest, **ONE)
        bridge(corrupt_ids, **corrupt_rest, **ONE)
        values = []
        for layer, positions in runs:
            at = torch.tensor(positions, device=clean_ids.device)

            def patch(states: Tensor, hook: Any, layer: int = layer, at: Tensor = at) -> Tensor:
                states[:, at] = kept[names[layer]][:, at]
                return states

            values.append(metric(bridge.run_with_hooks(corrupt_ids, fwd_hooks=[(names[layer], patch)], **corrupt_rest, **ONE)))
        return torch.stack(values).cpu()

    return runs_of
