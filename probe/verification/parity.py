"""Verify: every kind of read against plain Hugging Face, and the grid against the image itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from probe.backbones import Backbone
from probe.encoder import Encoder
from probe.errors import InvalidRead, ProbeError
from probe.inputs.encoding import Answer
from probe.inputs.images import ImageLike, open_image
from probe.model import Probe
from probe.runtime import Runtime
from probe.tracing.attention import first_tensor
from probe.tracing.reads import Attention, Hidden, Logits, Projected, Read, Vision
from probe.tracing.sites import token_states
from probe.tracing.trace import Trace
from probe.verification.painting import QUESTION, check_grid, grid_title, image_tokens, inner_cells
from probe.verification.parts import part_checks
from probe.verification.report import Check, Report

if TYPE_CHECKING:
    from transformers.utils import ModelOutput

ANSWER = "A picture of something. It has some colours."

ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference of attention weights, which lie in 0..1, between two kernels whose hidden states drift apart through all layers."""


def verify(model: Probe, image: ImageLike | None = None, *, cells: int = 6) -> Report:
    """Compare every kind of read with plain Hugging Face, with an image in the input.

    Args:
        model: a model that was loaded with its processor.
        image: any image; None: noise of 96 x 160 pixels.
        cells: how many cells of each view the perturbation test changes.

    Returns:
        a Report. A comparison that fails is repeated in float64: there a difference by rounding vanishes, and one by a bug stays.

    >>> report = probe.verify(model, image, cells=1)
    >>> report.passed
    True
    >>> [check.what for check in report.checks][:4]
    ['Hidden, every layer', 'Logits', 'Projected', 'Vision, every block']

    Raises:
        ProcessorNeeded: the model was loaded without one.
        InvalidRead: the model does not take images and text.
    """
    model.runtime.require_decoder("verify")
    if model.modules.image_token_id is None and not model.modules.vision_blocks:
        raise InvalidRead(f"verify() puts an image into the input, and {model.family} takes none. Name a model of images and text.")
    opened = open_image(image) if image is not None else _noise(96, 160)
    checks, left_out = _checked_reads(model, opened), dict(model.modules.unreadable)
    if not model.modules.vision_blocks:
        left_out.setdefault("Vision", "no vision tower was found")
    unchecked: dict[str, str] = {}
    if model.backbone.no_grid_reason:
        left_out["Grid"] = model.backbone.no_grid_reason
    elif "Projected" not in left_out or type(model.backbone).layout is not Backbone.layout:
        _check_grids(model, opened, cells, checks, left_out, unchecked)
    return Report(repr(model), tuple(checks), left_out, unchecked)


def _checked_reads(model: Probe, image: Image.Image) -> list[Check]:
    """The checks of all reads; one that fails has a note about its repetition in float64."""
    checks = list(_read_checks(model, image))
    if all(check.passed for check in checks):
        return checks
    runtime = Runtime(copy.deepcopy(model.model).double())
    exact = Probe(runtime, Encoder(runtime, model.processor, model.encoder.preparation), model.name, model.revision)
    again = {check.what: check for check in _read_checks(exact, image)}
    return [check if check.passed else _with_note(check, again.get(check.what)) for check in checks]


def _check_grids(
    model: Probe, image: Image.Image, cells: int, checks: list[Check], left_out: dict[str, str], unchecked: dict[str, str]
) -> None:
    """Check every grid of the image; add to the checks, or to the reasons why there is none."""

    project = partial(image_tokens, model)
    projected = project(image)
    if projected.layout is None:
        left_out["Grid"] = projected.no_grid_reason
        return
    for grid in projected.layout.grids:
        chosen = inner_cells(grid, np.random.default_rng(0), cells)
        if chosen:
            checks.append(check_grid(image, projected, grid, chosen, project))
        else:
            shape = f"{image.height} x {image.width}"
            unchecked[grid_title(grid)] = f"no cell lies on whole pixels of an image of {shape}. Pass another one."


def _read_checks(model: Probe, image: Image.Image) -> Iterator[Check]:
    answered = model.encode(image, QUESTION).with_answer(ANSWER)
    yield from _state_checks(model, answered)
    yield from _attention_checks(model, answered)
    yield from part_checks(model, answered)


def _state_checks(model: Probe, answered: Answer) -> Iterator[Check]:
    """Hidden states, logits, projected tokens and vision states, which the same kernel computes from the same inputs."""
    same = f"the same {model.model.config._attn_implementation} kernel on the same inputs"
    plain, tower = _plain_forward(model, answered, output_hidden_states=True)
    reads: list[Read] = [Hidden("all"), Logits(at=None)]
    if "Projected" not in model.modules.unreadable:
        reads.append(Projected())
    trace = model.run(answered, reads)
    states = [token_states(state, len(state), model.modules.axes) for state in plain.hidden_states]
    layers = range(len(model.modules.layers) + 1)
    hidden = max(_difference(trace.hidden(layer=layer).data, states[layer]) for layer in layers)
    yield Check("Hidden, every layer", hidden, 0.0, same)
    yield Check("Logits", _difference(trace.logits(None).data, plain.logits), 0.0, same)
    if Projected() in reads:
        expected = _plain_projected(model, plain, answered, states[0])
        yield Check("Projected", _difference(trace.projected().data[0], expected), 0.0, same)
    if tower:
        ours = model.run(answered, Vision("all"))
        vision = max(_difference(ours.vision(layer=block + 1).data, _patches(ours, state)) for block, state in enumerate(tower))
        yield Check("Vision, every block", vision, 0.0, "PyTorch hooks on the same blocks")


def _attention_checks(model: Probe, answered: Answer) -> Iterator[Check]:
    """Attention rows, from eager attention's own queries and keys and from those of the running kernel."""
    dtype, kernel = model.model.dtype, model.model.config._attn_implementation
    rows = Attention("all", query="answer")
    running = model.run(answered, rows)
    with _attention_kernel(model, "eager"):
        plain, _ = _plain_forward(model, answered, output_attentions=True)
        eager = model.run(answered, rows)
    positions = list(answered.tokens.span("answer").positions)
    blocks = [block for block, path in enumerate(model.modules.attention) if path is not None]
    weights = dict(zip(blocks, plain.attentions, strict=True))  # Hugging Face leaves blocks without attention out

    def difference(trace: Trace) -> float:
        return max(_difference(trace.attention(layer=block).data, weights[block][:, :, positions]) for block in blocks)

    rounded = ROUNDING[dtype] if dtype in (torch.float16, torch.bfloat16) else 1e-6  # eager's softmax is float32 in wider models too
    yield Check("Attention, on eager's own q and k", difference(eager), rounded, "one softmax, summed in another order")
    separate = f"Attention under {kernel}, a separate eager run"
    yield Check(separate, difference(running), ROUNDING[dtype], "the states of two kernels drift apart")


def _plain_forward(model: Probe, answered: Answer, **outputs: bool) -> tuple[ModelOutput, list[Tensor]]:
    """The output of a forward without nnsight, and the outputs of the vision blocks as plain PyTorch hooks get them."""
    states: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: object) -> None:
        states.append(first_tensor(output).detach())

    blocks = [model.model.get_submodule(path) for path in model.modules.vision_blocks]
    hooks = [block.register_forward_hook(keep) for block in blocks]
    try:
        with torch.no_grad():
            inputs = model.backbone.forward_inputs(model.model, answered.inputs)
            plain = model.model(**inputs, **outputs, use_cache=False, return_dict=True)
            # A tower that is called once more, for tiles, is read at its first call.
            return getattr(plain, "language_model_outputs", plain), states[: len(blocks)]
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _attention_kernel(model: Probe, name: str) -> Iterator[None]:
    """Another attention kernel within a `with` block."""
    config = model.model.config
    parts = {part: getattr(config, part) for part in config.sub_configs}
    chosen = {part: own._attn_implementation for part, own in parts.items() if own is not None}
    before = {"": config._attn_implementation, **{part: kernel for part, kernel in chosen.items() if kernel is not None}}
    model.model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.model.set_attn_implementation(before)


def _patches(trace: Trace, states: Tensor) -> Tensor:
    """A tower block's output in the form that a trace has: (batch, token, feature), class tokens left out."""
    if states.ndim == 4:
        states = states.flatten(1, 2)
    return trace.vision_layout.of_patches(states if states.ndim == 3 else states[None])


def _plain_projected(model: Probe, plain: ModelOutput, answered: Answer, embedded: Tensor) -> Tensor:
    """Hugging Face's projected tokens; for a model that does not return them, its input to layer 0 at the image tokens."""
    if plain.get("image_hidden_states") is not None and model.backbone.projected_states:
        return _concatenated(plain.image_hidden_states)
    return embedded[0, list(answered.tokens.span("image").positions)]


def _concatenated(projected: object) -> Tensor:
    """Projected tokens (token, feature): families return one tensor, a list with one for each image, or the tower's whole output."""
    tokens = getattr(projected, "pooler_output", projected)
    joined = torch.cat(list(tokens)) if isinstance(tokens, (list, tuple)) else cast(Tensor, tokens)
    return joined.flatten(0, -2)


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference.

    Raises:
        ProbeError: the shapes differ.
    """
    if ours.shape != theirs.shape:
        raise ProbeError(
            f"A read has the shape {tuple(ours.shape)}, Hugging Face's tensor {tuple(theirs.shape)}. Please report this model."
        )
    return float((ours.double() - theirs.double()).abs().max()) if ours.numel() else 0.0


def _with_note(check: Check, exact: Check | None) -> Check:
    """A failed check with a note about its repetition in float64."""
    if exact is None:
        return check
    rounding = exact.difference <= check.tolerance * 1e-3 + 1e-9
    verdict = "so it is rounding, and larger than expected" if rounding else "so it is a bug"
    return replace(check, note=f"in float64 it is {exact.difference:.1e}, {verdict}")


def _noise(height: int, width: int) -> Image.Image:
    """Coarse noise, so that no two cells look alike and a change of a whole cell survives resizing."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
