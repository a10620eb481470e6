"""What many edited runs of one input cost: a causal trace, against whole runs with a forward hook on plain Hugging Face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import probe
from tests.benchmarks.models import Size, opened, picture
from tests.benchmarks.reads import _of_length
from tests.benchmarks.timing import seconds

TOKENS = 700
TOLERANCE = 1e-5  # float32, max abs over the metric, whose size is about 1: the same sums in another order


def measure(size: Size, hooked: int = 40, repeats: int = 3) -> list[dict[str, object]]:
    """A causal trace over all layers: at the last 20 positions, and at all image tokens at once.

    Args:
        hooked: of how many hooked runs each repeat times, beside the two of the inputs themselves; their mean stands for each of more.
    """
    model = opened(size)
    clean = _of_length(model, TOKENS)
    corrupt = _other_image(model, clean)
    return [_traced(model, clean, corrupt, name, places, hooked, repeats) for name, places in TASKS.items()]


def _traced(
    model: probe.Probe, clean: probe.Encoding, corrupt: probe.Encoding, name: str, places: Sequence[int | str], hooked: int, repeats: int
) -> dict[str, object]:
    layers, tokens = range(len(model.modules.layers)), clean.tokens
    runs = [(layer, tokens.resolve(place)) for layer in layers for place in places]
    timed = runs[:: -(-len(runs) // hooked)]
    found: list[probe.CausalTrace] = []
    expected: list[Tensor] = []
    took = seconds(
        {
            "causal_trace": lambda: found.append(probe.causal_trace(model, clean, corrupt, layers=layers, places=places, metric=METRIC)),
            "hooked": lambda: expected.append(_hooked(model, clean, corrupt, timed)),
        },
        repeats,
    )
    traced = found[-1]
    ours = torch.stack([traced.data.flatten()[runs.index(run)] for run in timed])
    difference = float((ours - expected[-1]).abs().max())
    assert difference <= TOLERANCE, difference
    whole = took["hooked"] / (len(timed) + 2) * (len(runs) + 2)
    return {
        "tokens": len(tokens),
        "patched": name,
        "runs": len(runs),
        "hooked runs timed": len(timed),
        "hooked, s": whole,
        "causal_trace, s": took["causal_trace"],
        "hooked / causal_trace": whole / took["causal_trace"],
        "metric moved by": float((traced.data - traced.corrupt).abs().max()),
        "differs by": difference,
    }


TASKS: dict[str, Sequence[int | str]] = {"each of the last 20 positions": range(-20, 0), "all image tokens at once": ["image"]}
METRIC = probe.LogitDifference(1000, 2000)


def _other_image(model: probe.Probe, clean: probe.Encoding) -> probe.Encoding:
    other = model.encode(picture().rotate(180), "cat " * (clean.tokens.text("question").count("cat") - 1) + "cat")
    assert other.tokens.ids == clean.tokens.ids
    return other


@torch.no_grad()
def _hooked(model: probe.Probe, clean: probe.Encoding, corrupt: probe.Encoding, runs: Sequence[tuple[int, tuple[int, ...]]]) -> Tensor:
    """What a user without probe would write: the clean run's states kept by hooks, then one run with a hook for each place."""
    blocks = [model.model.get_submodule(path) for path in model.modules.layers]
    kept: dict[int, Tensor] = {}
    hooks = [
        block.register_forward_pre_hook(lambda _, given, number=number: kept.update({number: given[0].clone()}))
        for number, block in enumerate(blocks)
    ]
    _logits(model, clean)
    for hook in hooks:
        hook.remove()
    values = []
    _logits(model, corrupt)
    for layer, positions in runs:
        at = torch.tensor(positions, device=model.model.device)

        def patch(_: Any, given: Any, layer: int = layer, at: Tensor = at) -> Any:
            states = given[0].clone()
            states[:, at] = kept[layer][:, at]
            return (states, *given[1:])

        hook = blocks[layer].register_forward_pre_hook(patch)
        logits = _logits(model, corrupt)
        hook.remove()
        values.append(logits[METRIC.plus] - logits[METRIC.minus])
    return torch.stack(values).cpu()


def _logits(model: probe.Probe, encoding: probe.Encoding) -> Tensor:
    logits: Tensor = model.model(**encoding.inputs, use_cache=False, logits_to_keep=1).logits[0, -1].float()
    return logits
