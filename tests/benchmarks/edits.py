"""What parts of a block and edits cost: against forward hooks that keep, or change, the same tensors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from typing import Any

import torch
from torch import Tensor

import probe
from tests.benchmarks.models import Size, many_if_short, opened
from tests.benchmarks.reads import _of_length
from tests.benchmarks.timing import quotient, turns


def measure(size: Size, repeats: int = 9) -> list[dict[str, object]]:
    """The image tokens of every block: what its attention and its MLP add, read; and a vector added to its output."""
    model, encoding = opened(size), _of_length(opened(size), 700)
    repeats = many_if_short(size, repeats)
    image = torch.tensor(encoding.tokens.span("image").positions, device=model.model.device)
    return [_parts(model, encoding, image, size, repeats), _edits(model, encoding, image, size, repeats)]


def _parts(model: probe.Probe, encoding: probe.Encoding, image: Tensor, size: Size, repeats: int) -> dict[str, object]:
    reads = [probe.AttentionOutput("all", at="image"), probe.MLPOutput("all", at="image"), probe.Logits(at=-1)]
    paths = [path for part in model.modules.parts for path in (part.attention, part.mlp) if path]

    def hooked() -> dict[str, Tensor]:
        kept: dict[str, Tensor] = {}

        def keep(path: str) -> Callable[..., None]:
            def hook(_: Any, __: Any, output: Any) -> None:
                kept[path] = (output[0] if isinstance(output, tuple) else output)[0, image]

            return hook

        _run(model, encoding, {path: keep(path) for path in paths})
        return kept

    trace, kept = model.run(encoding, reads), hooked()
    for block, part in enumerate(model.modules.parts):
        assert torch.equal(trace[probe.MLPOutput(block, at="image")].data[0, 0], kept[str(part.mlp)])
    return _row("what attention and MLP add, read", model, encoding, size, lambda: model.run(encoding, reads), hooked, repeats)


def _edits(model: probe.Probe, encoding: probe.Encoding, image: Tensor, size: Size, repeats: int) -> dict[str, object]:
    depth = len(model.modules.layers)
    vector = 0.01 * torch.randn(model.model.config.get_text_config().hidden_size, generator=torch.Generator().manual_seed(0))
    vector = vector.to(model.model.device, model.model.dtype)
    edits = [probe.edit.add(probe.Hidden(range(1, depth), at="image"), vector)]

    def change(_: Any, __: Any, output: Any) -> Any:
        states = (output[0] if isinstance(output, tuple) else output).clone()
        states[:, image] += vector
        return (states, *output[1:]) if isinstance(output, tuple) else states

    def hooked() -> Tensor:
        return _run(model, encoding, dict.fromkeys(model.modules.layers[:-1], change))

    def ours() -> Tensor:
        return model.run(encoding, probe.Logits(at=-1), edits=edits).logits().data[0, 0]

    assert torch.equal(ours(), hooked())
    return _row("a vector added to every block's output", model, encoding, size, ours, hooked, repeats)


def _row(
    what: str,
    model: probe.Probe,
    encoding: probe.Encoding,
    size: Size,
    ours: Callable[[], object],
    hooked: Callable[[], object],
    repeats: int,
) -> dict[str, object]:
    took = turns({"plain": lambda: _run(model, encoding, {}), "probe": ours, "hooks": hooked}, repeats)
    shown = {f"{name}, s": median(values) for name, values in took.items()}
    ratios = {f"probe / {other}": quotient(took["probe"], took[other]) for other in ("hooks", "plain")}
    return {"size": size, "image tokens of every block": what, **shown, **ratios}


@torch.no_grad()
def _run(model: probe.Probe, encoding: probe.Encoding, hooks: dict[str, Callable[..., Any]]) -> Tensor:
    """The last token's logits of a plain forward with hooks."""
    with ExitStack() as stack:
        for path, hook in hooks.items():
            stack.callback(model.model.get_submodule(path).register_forward_hook(hook).remove)
        logits: Tensor = model.model(**encoding.inputs, use_cache=False).logits[0, -1]
    return logits
