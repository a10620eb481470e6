"""What a read costs: attention rows against eager attention, hidden states against raw hooks, both against the plain forward."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

import probe
from tests.benchmarks.models import Size, many_if_short, opened, picture
from tests.benchmarks.timing import quotient, turns

QUERIES = 10


def rows(size: Size, lengths: tuple[int, ...] = (700, 2900), repeats: int = 5) -> list[dict[str, object]]:
    """Ten attention rows of every layer, to every key, at prompts of these many tokens."""
    return [_rows(size, length, repeats) for length in lengths]


def _rows(size: Size, length: int, repeats: int) -> dict[str, object]:
    model = opened(size)
    encoding = _of_length(model, length)
    read = probe.Attention(layers="all", query=list(range(-QUERIES, 0)), key=None)
    held = {"rows": _bytes(model.run(encoding, read).captured.attention), "eager": _bytes(_eager(model, encoding))}
    ways: dict[str, Callable[[], Any]] = {
        "plain": lambda: _plain(model, encoding),
        "rows": lambda: model.run(encoding, read),
        "eager": lambda: _eager(model, encoding),
    }
    times = turns(ways, many_if_short(size, repeats) if length < 1000 else repeats)
    took = {name: median(values) for name, values in times.items()}
    made: dict[str, object] = {
        "size": size,
        "tokens": length,
        "plain, s": took["plain"],
        "rows, s": took["rows"],
        "eager, s": took["eager"],
        "rows / plain": quotient(times["rows"], times["plain"]),
        "eager / plain": quotient(times["eager"], times["plain"]),
        "held by rows, MB": held["rows"] / 1e6,
        "held by eager, MB": held["eager"] / 1e6,
        "eager / rows held": held["eager"] / held["rows"],
    }
    if torch.cuda.is_available():
        made |= {f"peak {name}, MB": _peak(way) / 1e6 for name, way in ways.items()}
    return made


def overhead(size: Size, repeats: int = 9) -> list[dict[str, object]]:
    """The image tokens' hidden states of every layer: probe, forward hooks that keep the same slices, and output_hidden_states."""
    model, encoding = opened(size), _of_length(opened(size), 700)
    image = torch.tensor(encoding.tokens.span("image").positions, device=model.model.device)
    read = probe.Hidden(layers="all", at="image")
    ours = model.run(encoding, read).hidden().data[:, 0]
    for theirs in (_hooked(model, encoding, image), _listed(model, encoding, image)):
        assert torch.equal(ours, torch.stack(theirs))
    times = turns(
        {
            "plain": lambda: _plain(model, encoding),
            "probe": lambda: model.run(encoding, read),
            "hooks": lambda: _hooked(model, encoding, image),
            "output_hidden_states": lambda: _listed(model, encoding, image),
        },
        many_if_short(size, repeats),
    )
    shown: dict[str, object] = {f"{name}, s": median(values) for name, values in times.items()}
    return [{"size": size, **shown, **{f"probe / {other}": quotient(times["probe"], times[other]) for other in ("hooks", "plain")}}]


def _of_length(model: probe.Probe, length: int) -> probe.Encoding:
    short = len(model.encode(picture(), "cat").tokens)
    encoding = model.encode(picture(), "cat " * (length - short) + "cat")
    assert abs(len(encoding.tokens) - length) <= 2
    return encoding


@torch.no_grad()
def _plain(model: probe.Probe, encoding: probe.Encoding, **options: Any) -> Any:
    return model.model(**encoding.inputs, use_cache=False, logits_to_keep=1, **options)


def _eager(model: probe.Probe, encoding: probe.Encoding) -> tuple[Tensor, ...]:
    model.model.set_attn_implementation("eager")
    try:
        attentions: tuple[Tensor, ...] = _plain(model, encoding, output_attentions=True).attentions
    finally:
        model.model.set_attn_implementation("sdpa")
    return attentions


def _hooked(model: probe.Probe, encoding: probe.Encoding, image: Tensor) -> list[Tensor]:
    """What a user without probe would write: a hook on every block, one before the first, one behind the norm."""
    kept: dict[int, Tensor] = {}
    blocks = [model.model.get_submodule(path) for path in model.modules.layers]
    norm = model.model.get_decoder().norm

    def keep(number: int) -> Callable[..., None]:
        def hook(_: Any, __: Any, output: Any) -> None:
            kept[number] = (output[0] if isinstance(output, tuple) else output)[0, image]

        return hook

    hooks = [block.register_forward_hook(keep(number)) for number, block in enumerate(blocks[:-1], 1)]
    hooks.append(norm.register_forward_hook(keep(len(blocks))))
    hooks.append(blocks[0].register_forward_pre_hook(lambda _, given: kept.update({0: given[0][0, image]})))
    try:
        _plain(model, encoding)
    finally:
        for hook in hooks:
            hook.remove()
    return [kept[number] for number in range(len(blocks) + 1)]


def _listed(model: probe.Probe, encoding: probe.Encoding, image: Tensor) -> list[Tensor]:
    return [states[0, image] for states in _plain(model, encoding, output_hidden_states=True).hidden_states]


def _bytes(held: Any) -> int:
    """The bytes of all tensors in lists, tuples and mappings."""
    if isinstance(held, Tensor):
        return held.numel() * held.element_size()
    return sum(map(_bytes, held.values() if isinstance(held, dict) else held))


def _peak(way: Callable[[], Any]) -> int:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    way()
    return torch.cuda.max_memory_allocated() - before
