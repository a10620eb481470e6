"""What many edited runs of one input cost: a causal trace, against one whole run for each patched state, in three ways without probe.

TransformerLens is one of them where it is installed, as `pip install -c constraints.txt -e '.[test,bench]'` does:

    python -m tests.benchmarks variants --size mid
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random

import torch
from torch import Tensor

import probe
from tests.benchmarks.models import Size, opened, picture
from tests.benchmarks.peers import Patched, named_with_version, patched_by
from tests.benchmarks.reads import _of_length
from tests.benchmarks.timing import seconds

TOKENS = 700
TOLERANCE = 1e-5  # float32, max abs over the metric, whose size is about 1: the same sums in another order, eager attention among them
METRIC = probe.LogitDifference(100, 200)
TASKS: dict[str, Sequence[int | str]] = {"each of the last 20 positions": range(-20, 0), "all image tokens at once": ["image"]}


def measure(size: Size, timed: int = 16, repeats: int = 3) -> list[dict[str, object]]:
    """A causal trace over all layers: at the last 20 positions, and at all image tokens at once.

    Args:
        timed: of how many whole runs each repeat times, beside the two of the inputs themselves; their mean stands for each of more,
            of which these are drawn with a fixed seed.
    """
    model = opened(size)
    clean = _of_length(model, TOKENS)
    corrupt = _other_image(model, clean)
    peers = patched_by(model, clean, corrupt, METRIC)
    return [row for name in TASKS for row in _traced(model, clean, corrupt, name, peers, timed, repeats)]


def _traced(
    model: probe.Probe, clean: probe.Encoding, corrupt: probe.Encoding, task: str, peers: dict[str, Patched], timed: int, repeats: int
) -> list[dict[str, object]]:
    """One row for each way; that of `causal_trace` first."""
    layers, places = range(len(model.modules.layers)), TASKS[task]
    runs = [(layer, clean.tokens.resolve(place)) for layer in layers for place in places]
    sample = runs if len(runs) <= timed else Random(0).sample(runs, timed)
    found: list[probe.CausalTrace] = []
    theirs: dict[str, Tensor] = {}
    ways: dict[str, Callable[[], object]] = {
        "causal_trace": lambda: found.append(probe.causal_trace(model, clean, corrupt, layers=layers, places=places, metric=METRIC)),
        **{name: partial(lambda name, runs_of: theirs.update({name: runs_of(sample)}), name, peers[name]) for name in peers},
    }
    took = seconds(ways, repeats)
    traced = found[-1]
    ours = torch.stack([traced.data.flatten()[runs.index(run)] for run in sample])
    differences = {name: float((ours - values).abs().max()) for name, values in theirs.items()}
    assert max(differences.values()) <= TOLERANCE, differences
    whole = {name: took[name] / (len(sample) + 2) * (len(runs) + 2) for name in peers}
    same = {"patched": task, "whole runs": len(runs)}
    moved = float((traced.data - traced.corrupt).abs().max())
    first = {**same, "timed": "all", "way": "causal_trace", "s": took["causal_trace"], "/ causal_trace": 1.0, "metric moved by": moved}
    return [
        {**first, "differs by": 0.0},
        *(
            {
                **same,
                "timed": len(sample),
                "way": named_with_version(name),
                "s": whole[name],
                "/ causal_trace": whole[name] / took["causal_trace"],
                "metric moved by": moved,
                "differs by": differences[name],
            }
            for name in peers
        ),
    ]


def _other_image(model: probe.Probe, clean: probe.Encoding) -> probe.Encoding:
    other = model.encode(picture().rotate(180), "cat " * (clean.tokens.text("question").count("cat") - 1) + "cat")
    assert other.tokens.ids == clean.tokens.ids
    return other
