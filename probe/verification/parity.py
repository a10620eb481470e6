"""Verify: every kind of read against plain Hugging Face, and the grid against the picture itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from probe.encoder import Encoder
from probe.errors import ProbeError
from probe.inputs.encoding import Answer
from probe.inputs.images import ImageLike, open_image
from probe.model import Probe
from probe.runtime import Runtime
from probe.tokens.layout import Box, Grid
from probe.tracing.activation import Activation
from probe.tracing.capture import token_states
from probe.tracing.reads import Attention, Hidden, Logits, Projected, Vision
from probe.tracing.trace import Trace

QUESTION, ANSWER = "What is in the picture?", "A picture of something. It has some colours."

ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Attention weights, which lie in 0..1: how far two kernels may be apart once their hidden states have drifted through all layers."""

PAINTINGS = ((255, 1.0), (0, 1.0), (None, 0.3))
"""What a cell's pixels are changed to (white, black, None: each to its opposite), and how far on the way."""


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        what: the read, and what it was compared with.
        difference: largest absolute difference; for the grid, the share of cells that moved another token than their own.
        tolerance: the largest that passes.
        why: where the tolerance comes from.
        note: what a repetition in float64 showed, for a comparison that failed.
    """

    what: str
    difference: float
    tolerance: float
    why: str
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Report:
    """The checks of one model; prints as a table.

    Attributes:
        model: what was verified.
        checks: in the order in which they were made.
        left_out: reads that this model does not have, and why.
        unchecked: what the model has and could not be checked on this image, and why.
    """

    model: str
    checks: tuple[Check, ...]
    left_out: Mapping[str, str]
    unchecked: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every check could be made, and passed."""
        return not self.unchecked and all(check.passed for check in self.checks)

    def __str__(self) -> str:
        width = max(len(check.what) for check in self.checks)
        lines = [self.model]
        for check in self.checks:
            verdict = "pass" if check.passed else "FAIL"
            lines.append(f"  {verdict}  {check.what:<{width}}  {check.difference:.1e} <= {check.tolerance:.0e}  {check.why}")
            if check.note:
                lines.append(f"        {check.note}")
        lines += [f"  none  {what}: {reason}" for what, reason in self.left_out.items()]
        lines += [f"  FAIL  {what} could not be checked: {reason}" for what, reason in self.unchecked.items()]
        return "\n".join(lines)


def verify(model: Probe, image: ImageLike | None = None, *, cells: int = 6) -> Report:
    """Compare every kind of read with plain Hugging Face, with an image in the input.

    Args:
        model: opened with its processor.
        image: any picture; None: noise of 96 x 160 pixels.
        cells: how many cells of each view the perturbation test changes.

    Returns:
        a Report. What fails is repeated in float64, where a bug stays and rounding goes.

    Raises:
        ProcessorNeeded: the model was loaded without one.
    """
    picture = open_image(image) if image is not None else _noise(96, 160)
    checks, left_out = list(_reads(model, picture)), dict(model.modules.unreadable)
    if not model.modules.vision_blocks:
        left_out.setdefault("Vision", "no vision tower was found")
    failed = {check.what for check in checks if not check.passed}
    if failed:
        runtime = Runtime(copy.deepcopy(model.model).double())
        exact = Probe(runtime, Encoder(runtime, model.processor, model.encoder.preparation), model.name, model.revision)
        again = {check.what: check for check in _reads(exact, picture)}
        checks = [_explained(check, again.get(check.what)) if check.what in failed else check for check in checks]
    unchecked: dict[str, str] = {}
    if model.backbone.no_grid_reason:
        left_out["Grid"] = model.backbone.no_grid_reason
    elif "Projected" not in left_out:
        before = _projected(model, picture)
        if before.layout is None:
            left_out["Grid"] = before.no_grid_reason
        for grid in before.layout.grids if before.layout else ():
            chosen = _inner_cells(grid, np.random.default_rng(0), cells)
            if chosen:
                checks.append(_painted(model, picture, before, grid, chosen))
            else:
                shape = f"{picture.height} x {picture.width}"
                unchecked[_titled(grid)] = f"no cell lies on whole pixels of an image of {shape}. Pass another one."
    return Report(repr(model), tuple(checks), left_out, unchecked)


def _reads(model: Probe, picture: Image.Image) -> Iterator[Check]:
    answered = model.encode(picture, QUESTION).with_answer(ANSWER)
    dtype, kernel = model.model.dtype, model.model.config._attn_implementation
    same = f"the same {kernel} kernel on the same inputs"
    depth = range(len(model.modules.layers) + 1)
    plain, towers = _plain(model, answered, output_hidden_states=True)
    projected = "Projected" not in model.modules.unreadable
    trace = model.run(answered, [Hidden("all"), Logits(at=None), *([Projected()] if projected else [])])
    states = [token_states(state, model.modules.axes) for state in plain.hidden_states]
    yield Check("Hidden, every layer", max(_apart(trace.hidden(layer=i).data, states[i]) for i in depth), 0.0, same)
    yield Check("Logits", _apart(trace.logits(None).data, plain.logits), 0.0, same)
    if projected:
        yield Check("Projected", _apart(trace.projected().data[0], _theirs_projected(model, plain, answered, states[0])), 0.0, same)
    if towers:
        ours = model.run(answered, Vision("all"))
        read = max(_apart(ours.vision(layer=i + 1).data, _patches(ours, towers[i])) for i in range(len(towers)))
        yield Check("Vision, every block", read, 0.0, "PyTorch hooks on the same blocks")
    rows = Attention("all", query="answer")
    fast = model.run(answered, rows)
    with _kernel(model, "eager"):
        eager, _ = _plain(model, answered, output_attentions=True)
        slow = model.run(answered, rows)
    positions = list(answered.tokens.span("answer").positions)
    blocks = [i for i, path in enumerate(model.modules.attention) if path is not None]
    theirs = dict(zip(blocks, eager.attentions, strict=True))  # Hugging Face leaves blocks without attention out

    def apart(trace: Trace) -> float:
        return max(_apart(trace.attention(layer=i).data, theirs[i][:, :, positions]) for i in blocks)

    rounded = ROUNDING[dtype] if dtype in (torch.float16, torch.bfloat16) else 1e-6  # eager's softmax is float32 in wider models too
    yield Check("Attention, on eager's own q and k", apart(slow), rounded, "one softmax, summed in another order")
    yield Check(f"Attention under {kernel}, a separate eager run", apart(fast), ROUNDING[dtype], "the states of two kernels drift apart")


def _plain(model: Probe, answered: Answer, **outputs: bool) -> tuple[Any, list[Tensor]]:
    """A forward without nnsight: its outputs, and what plain PyTorch hooks saw the vision blocks give."""
    seen: list[Tensor] = []
    blocks = [model.model.get_submodule(path) for path in model.modules.vision_blocks]

    def look(_: object, __: object, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output).detach())

    hooks = [block.register_forward_hook(look) for block in blocks]
    try:
        with torch.no_grad():
            inputs = model.backbone.forward_inputs(model.model, answered.inputs)
            plain = model.model(**inputs, **outputs, use_cache=False, return_dict=True)
            return getattr(plain, "language_model_outputs", plain), seen
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _kernel(model: Probe, name: str) -> Iterator[None]:
    """Another attention kernel for a while."""
    config = model.model.config
    parts = {part: getattr(config, part) for part in config.sub_configs}
    before = {"": config._attn_implementation, **{part: own._attn_implementation for part, own in parts.items() if own is not None}}
    model.model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.model.set_attn_implementation(before)


def _patches(trace: Trace, theirs: Tensor) -> Tensor:
    if theirs.ndim == 4:
        theirs = theirs.flatten(1, 2)
    return trace.vision_layout.of_patches(theirs if theirs.ndim == 3 else theirs[None])


def _theirs_projected(model: Probe, plain: Any, answered: Answer, embedded: Tensor) -> Tensor:
    """Hugging Face's projected tokens; of a model that does not return them, its input to layer 0 at the image tokens."""
    if plain.get("image_hidden_states") is not None and model.backbone.projected_states:
        return _in_one_piece(plain.image_hidden_states)
    return embedded[0, list(answered.tokens.span("image").positions)]


def _in_one_piece(projected: Any) -> Tensor:
    """Projected tokens (token, feature): families return one tensor, a list of one for each picture, or the tower's whole output."""
    projected = getattr(projected, "pooler_output", projected)
    return (torch.cat(list(projected)) if isinstance(projected, (list, tuple)) else projected).flatten(0, -2)


def _apart(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        raise ProbeError(
            f"A read has the shape {tuple(ours.shape)}, Hugging Face's tensor {tuple(theirs.shape)}. Please report this model."
        )
    return float((ours.double() - theirs.double()).abs().max()) if ours.numel() else 0.0


def _explained(check: Check, exact: Check | None) -> Check:
    if exact is None:
        return check
    verdict = "so it is rounding, and larger than expected" if exact.difference <= check.tolerance * 1e-3 + 1e-9 else "so it is a bug"
    return Check(check.what, check.difference, check.tolerance, check.why, f"in float64 it is {exact.difference:.1e}, {verdict}")


def _projected(model: Probe, picture: Image.Image) -> Activation:
    read: Activation = model.run(model.encode(picture, QUESTION), Projected()).projected()
    return read


def _titled(grid: Grid) -> str:
    return f"Grid {grid.name!r}, {grid.rows} x {grid.cols}"


def _painted(model: Probe, picture: Image.Image, before: Activation, grid: Grid, chosen: Sequence[tuple[int, int]]) -> Check:
    """Paint one cell's pixels over: the token that moves most at the input of layer 0 has to be that cell's.

    A single painting can make a new object that other tokens tell of more than the cell's own. So each cell is painted in several ways,
    and every way counts alike: by what share of the largest movement each token moved.
    """
    missed = 0
    for row, col in chosen:
        shares = torch.zeros(len(grid.tokens))
        for colour, amount in PAINTINGS:
            after = _projected(model, _with_cell(picture, grid.cell_box(row, col), colour, amount))
            moved = (after.data - before.data)[0].float().norm(dim=-1).cpu()[list(grid.tokens)]
            shares += moved / moved.max().clamp(min=torch.finfo(moved.dtype).tiny)  # a cell that was black stays as it was
        missed += int(shares.argmax()) != row * grid.cols + col
    ways = f"{len(chosen)} cells painted over, one at a time, in {len(PAINTINGS)} ways"
    return Check(_titled(grid), missed / len(chosen), 0.0, ways)


def _inner_cells(grid: Grid, rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """Cells that lie on the picture with at least two pixels a side."""
    height, width = grid.image_size

    def inside(row: int, col: int) -> bool:
        x0, y0, x1, y1 = grid.cell_box(row, col)
        return x0 >= -0.5 and y0 >= -0.5 and x1 <= width + 0.5 and y1 <= height + 0.5 and min(x1 - x0, y1 - y0) >= 2

    fitting = [(row, col) for row in range(grid.rows) for col in range(grid.cols) if inside(row, col)]
    return [fitting[i] for i in rng.permutation(len(fitting))[:count]]


def _with_cell(picture: Image.Image, box: Box, colour: int | None, amount: float) -> Image.Image:
    """The picture with the pixels in a box changed to a grey value, or each to its opposite, a part of the way."""
    x0, y0, x1, y1 = (round(edge) for edge in box)
    pixels = np.array(picture, dtype=np.float64)
    cell = pixels[y0:y1, x0:x1]
    cell += amount * ((255 - cell if colour is None else colour) - cell)
    return Image.fromarray(pixels.round().astype(np.uint8))


def _noise(height: int, width: int) -> Image.Image:
    """Coarse noise, so that no two cells look alike and a change of a whole cell survives resizing."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
