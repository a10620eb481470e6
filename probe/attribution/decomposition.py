"""Direct logit attribution: what each part of the model adds to the difference of two logits at one position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from probe.attribution.frozen_norm import NotANorm, frozen_norm, largest_gap, tolerance
from probe.attribution.metrics import LogitDifference, TokenDifference, differences_of_rows
from probe.backbones.base import Factor
from probe.errors import InvalidRead
from probe.inputs.encoding import Encoding
from probe.runtime import Batch, Runtime
from probe.tokens.equality import equal_fields
from probe.tracing.activation import Activation
from probe.tracing.modules import BETWEEN_BLOCKS, Modules, text_config
from probe.tracing.parts import BlockParts
from probe.tracing.reads import AttentionOutput, HeadOutput, Hidden, Logits, MLPOutput, Module, Read, StateRead
from probe.tracing.trace import Trace

_CAP = "final_logit_softcapping"


@dataclass(frozen=True, eq=False)
class Attribution:
    """What the parts of a model add to the difference of two logits. It holds no model, and can be pickled and compared.

    `embeddings + attention + mlp + others + bias` sum to `total`, and `total` is `metric` but for rounding; `attention` is what the heads of
    a block add, and the bias behind them. Float32.

    Attributes:
        metric: the difference of the logits, as the model computed it; where it caps its logits, before that.
        embeddings: added by hidden state 0, the first block's input.
        attention: dims (layer,): by the attention of each block that has one.
        heads: dims (layer, head): by each head of those blocks; 0 for heads that a block with fewer does not have.
        mlp: dims (layer,): by the MLP or the experts of each block that has them.
        others: dims (layer,): by what else a block adds, such as a linear mixer or cross-attention, and by what is added to its
            input between blocks; of the blocks that have it.
        bias: by the biases of the final norm and the head.
        note: what the logits go through after the difference was taken; "" if nothing.
        mixed: blocks that `heads` leaves out: what their heads write is mixed, over the tokens or by a gate, before it is added.

    >>> y = model.encode(image, "Is there a cat in the image?")
    >>> found = model.attribute_logits(y, plus="yes", minus="No")
    >>> found.heads
    Activation(layer=8, head=2; float32)
    >>> abs(found.total - found.metric) < 1e-4
    True
    """

    metric: float
    embeddings: float
    attention: Activation
    heads: Activation
    mlp: Activation
    others: Activation
    bias: float
    note: str = ""
    mixed: tuple[int, ...] = ()

    @property
    def attention_bias(self) -> Activation:
        """What the bias behind the heads adds, and the norm's: `attention - heads` of the blocks of `heads`."""
        blocks = self.heads.coords["layer"]
        return self.attention.sel(layer=blocks).map(self.attention.sel(layer=blocks).data - self.heads.data.sum(1))

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return self.embeddings + self.bias + sum(float(part.data.double().sum()) for part in (self.attention, self.mlp, self.others))

    def __eq__(self, other: object) -> bool:
        return equal_fields(self, other) if isinstance(other, Attribution) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        rows = [
            ("embeddings", self.embeddings, ""),
            *((name, float(part.data.sum()), _largest(part)) for name, part in self._tables()),
            ("bias", self.bias, ""),
            ("total", self.total, f"the logits differ by {self.metric:+.3f}"),
        ]
        table = "\n".join(f"  {name:<10} {value:+9.3f}  {rest}".rstrip() for name, value, rest in rows)
        return f"Attribution of a difference of logits{f' ({self.note})' if self.note else ''}\n{table}"

    def _tables(self) -> Iterator[tuple[str, Activation]]:
        yield "attention", self.attention
        yield "  heads", self.heads
        yield "mlp", self.mlp
        if self.others.data.numel():
            yield "others", self.others


def attribute_logits(runtime: Runtime, encoding: Encoding | Mapping[str, Tensor], difference: LogitDifference) -> Attribution:
    """What each part adds to a difference of logits: see `Probe.attribute_logits`."""
    batch = runtime.batch(encoding)
    tokens = _checked(runtime, batch, encoding, difference)
    trace = runtime.run(batch, _reads(runtime.modules, tokens.at))
    with runtime.engine.lock, torch.no_grad():
        found = Decomposition(runtime, trace, tokens).attribution()
    gap, scale = abs(found.total - found.metric), _magnitude(found)
    if gap > tolerance(runtime.model.dtype) * scale:
        raise InvalidRead(
            f"The parts sum to {found.total:.4g} and the logits differ by {found.metric:.4g}: {runtime.family} adds something that is not known, "
            "or a hook changes it. Attribute with model.gradients(method='input_x_gradient') instead."
        )
    return found


@dataclass(frozen=True)
class Decomposition:
    """The parts of one position of one forward.

    Attributes:
        tokens: the difference, its position counted from the first token.
    """

    runtime: Runtime
    trace: Trace
    tokens: TokenDifference

    @property
    def _device(self) -> torch.device:
        return self.runtime.model.get_submodule(str(self.runtime.modules.final_norm)).weight.device

    def attribution(self) -> Attribution:
        """What each part adds to the difference."""
        modules, at = self.runtime.modules, self.tokens.at
        head = self._head()
        attention: dict[int, Tensor] = {}
        heads: dict[int, Tensor] = {}
        mlp: dict[int, Tensor] = {}
        others: dict[int, Tensor] = {}
        direction = head.direction
        for number in reversed(range(len(modules.layers))):
            of_attention, of_mlp, of_residual = self._factors(number)
            part = modules.parts[number]
            if part.attention:
                attended = self._state(AttentionOutput(number, at))
                attention[number] = _dot(attended, direction * of_attention)
                apart = self._heads(number, part, attended, direction * of_attention)
                heads |= {} if apart is None else {number: apart}
            if part.mlp:
                mlp[number] = _dot(self._state(MLPOutput(number, at)), direction * of_mlp)
            rest = [_dot(self._module(Module(path, at=at)), direction * of_attention) for path in part.others]
            direction = direction * of_residual
            if number and modules.sum_reason == BETWEEN_BLOCKS:
                taken = self._module(Module(modules.layers[number], "input", at))
                rest.append(_dot(taken - self._state(Hidden(number, at)), direction))
            if rest:
                others[number] = torch.stack(rest).sum()
        return Attribution(
            metric=head.metric,
            embeddings=float(_dot(self._state(Hidden(0, at)), direction)),
            attention=_by_layer(attention),
            heads=_by_head(heads),
            mlp=_by_layer(mlp),
            others=_by_layer(others),
            bias=head.bias,
            note=head.note,
            mixed=tuple(sorted(attention.keys() - heads.keys())),
        )

    def _state(self, read: StateRead) -> Float[Tensor, "feature"]:
        return self.trace[read].data[0, 0, 0].float()

    def _module(self, read: Module) -> Float[Tensor, "feature"]:
        return self.trace[read].data[0, 0].float()

    def _factors(self, block: int) -> tuple[Factor, Factor, Factor]:
        """What a block multiplies its parts and its input by, on the device of the head."""
        runtime = self.runtime
        factors = runtime.backbone.residual_factors(runtime.model.get_submodule(runtime.modules.layers[block]))
        a, b, c = (factor.detach().float().reshape(-1).to(self._device) if isinstance(factor, Tensor) else factor for factor in factors)
        return a, b, c

    def _heads(self, block: int, part: BlockParts, attended: Tensor, direction: Tensor) -> Float[Tensor, "head"] | None:
        """What each head of a block adds, through the columns of the output projection, and the norm behind it if there is one.

        None: what the attention gives is neither what its heads write nor a norm of that, as where a convolution mixes its tokens.
        """
        model = self.runtime.model
        values = self.trace[HeadOutput(block, self.tokens.at)].data[0, 0, :, 0]
        alone = torch.block_diag(*values, values.new_zeros(1, 0))  # a row for each head, the others at 0; then one without any
        given = model.get_submodule(str(part.projection))(alone[None])[0].float()
        written, total = given[:-1] - given[-1], given[:-1].sum(0) - (len(values) - 1) * given[-1]
        if largest_gap(total, attended) > tolerance(values.dtype):
            if f"{part.projection}.".startswith(f"{part.attention}."):
                return None
            try:
                direction = frozen_norm(model.get_submodule(str(part.attention)), total, attended).transposed(direction)
            except NotANorm:
                return None
        return written @ direction.to(written.device)

    def _head(self) -> Head:
        """The way from the last block's output to the difference."""
        runtime, at, model = self.runtime, self.tokens.at, self.runtime.model
        module = output_head(model)
        assert module is not None, "a model without a head was refused"
        last = self._state(Hidden(len(runtime.modules.layers), at, normed=False))
        norm = model.get_submodule(str(runtime.modules.final_norm))
        normed = norm(last[None, None].to(model.dtype))
        try:
            frozen = frozen_norm(norm, last, normed[0, 0].float())
        except NotANorm:
            raise InvalidRead(
                f"{runtime.modules.final_norm} is no norm that multiplies by a scale. Use model.gradients() instead."
            ) from None
        raw = module(normed.to(module.weight.device))[0, 0].float()
        logits = self.trace[Logits(at)].data[0, 0].float().to(raw.device)
        factor, note = _after_head(raw, logits, model, runtime.family)
        plus, minus = self.tokens.plus, self.tokens.minus
        rows = (module.weight[plus].float() - module.weight[minus].float()) * factor
        own = 0.0 if module.bias is None else float(module.bias[plus] - module.bias[minus]) * factor
        metric = self.tokens(raw * factor if note else logits)
        return Head(frozen.transposed(rows.to(frozen.gain.device)), float(frozen.bias.to(rows.device) @ rows) + own, float(metric), note)


@dataclass(frozen=True)
class Head:
    """The way from the last block's output to the difference of two logits, linear at one state.

    Attributes:
        direction: the gradient of the difference there.
        bias: what the biases on the way add.
        metric, note: as in `Attribution`.
    """

    direction: Float[Tensor, "feature"]
    bias: float
    metric: float
    note: str


def _checked(runtime: Runtime, batch: Batch, encoding: object, difference: LogitDifference) -> TokenDifference:
    """The difference in tokens, if it can be attributed in this model.

    Raises:
        InvalidRead: with the reason why not.
    """
    modules, instead = runtime.modules, "Use model.gradients(method='input_x_gradient') instead."
    if len(batch.tokens) > 1:
        raise InvalidRead(f"attribute_logits() takes one sequence, got a batch of {len(batch.tokens)}. Pass them one by one.")
    reasons = {
        modules.sum_reason: bool(modules.sum_reason) and modules.sum_reason != BETWEEN_BLOCKS,
        "its last blocks' output goes through no final norm that was found": modules.final_norm is None,
        "it declares no head over the vocabulary (get_output_embeddings)": output_head(runtime.model) is None,
    }
    for reason, holds in reasons.items():
        if holds:
            raise InvalidRead(f"The logits of {runtime.family} cannot be attributed to its parts: {reason}. {instead}")
    return differences_of_rows(difference, encoding, batch.tokens, runtime)[0]


def _reads(modules: Modules, at: int) -> list[Read]:
    attention = [number for number, part in enumerate(modules.parts) if part.attention]
    mlp = [number for number, part in enumerate(modules.parts) if part.mlp]
    reads: list[Read] = [Hidden(0, at), Hidden(len(modules.layers), at, normed=False), Logits(at)]
    reads += [AttentionOutput(attention, at), HeadOutput(attention, at)] if attention else []
    reads += [MLPOutput(mlp, at)] if mlp else []
    reads += [Module(path, at=at) for part in modules.parts for path in part.others]
    if modules.sum_reason == BETWEEN_BLOCKS:
        reads += [Hidden(range(1, len(modules.layers)), at), *(Module(path, "input", at) for path in modules.layers[1:])]
    return reads


def _after_head(raw: Tensor, logits: Tensor, model: PreTrainedModel, family: str) -> tuple[float, str]:
    """What the head's output is multiplied by to give the logits, and what they go through besides.

    Raises:
        InvalidRead: it is not known.
    """
    known = (logits > torch.finfo(model.dtype).min / 2) & torch.isfinite(raw)  # some families ban tokens
    before, after = raw[known], logits[known]
    factor = _fitted(before, after)
    gap = largest_gap(before * factor, after)
    cap = getattr(text_config(model), _CAP, None)
    if cap:
        free = after.abs() < 0.99 * cap
        below = _fitted(before[free], cap * torch.atanh(after[free] / cap))
        capped = largest_gap(cap * torch.tanh(below * before / cap), after)
        if capped < min(gap, tolerance(model.dtype)):  # far below the cap, both fit
            return below, f"before the logits are capped at {cap:g}"
    if gap <= tolerance(model.dtype):
        return factor, ""
    raise InvalidRead(
        f"The logits of {family} are not its final norm and its head over the last hidden state, by a factor. Use model.gradients() instead."
    )


def _fitted(before: Tensor, after: Tensor) -> float:
    """The factor from one to the other; 1 where it is that but for rounding."""
    factor = float((before.double() @ after.double()) / (before.double() @ before.double()))
    return 1.0 if abs(factor - 1) < 1e-5 else factor


def output_head(model: PreTrainedModel) -> nn.Linear | None:
    """The head over the vocabulary: the model's own, or that of a model inside it; None: there is none, or it has no matrix."""
    inside = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    heads = (module.get_output_embeddings() for module in inside)
    return next((head for head in heads if isinstance(getattr(head, "weight", None), Tensor)), None)


def _dot(value: Tensor, direction: Tensor) -> Tensor:
    return value.to(direction.device).double() @ direction.double()


def _by_layer(values: Mapping[int, Tensor]) -> Activation:
    layers = sorted(values)
    return Activation(torch.tensor([float(values[layer]) for layer in layers]), ("layer",), {"layer": tuple(layers)})


def _by_head(values: Mapping[int, Tensor]) -> Activation:
    layers = sorted(values)
    rows = [values[layer].cpu() for layer in layers]
    data = nn.utils.rnn.pad_sequence(rows, batch_first=True) if rows else torch.zeros(0, 0)
    return Activation(data, ("layer", "head"), {"layer": tuple(layers)})


def _magnitude(found: Attribution) -> float:
    tables = (found.attention, found.mlp, found.others)
    return abs(found.embeddings) + abs(found.bias) + sum(float(part.data.abs().sum()) for part in tables)


def _largest(part: Activation, count: int = 4) -> str:
    """The parts that add most, for a table."""
    flat = part.data.flatten()
    best = flat.abs().topk(min(count, len(flat))).indices.tolist()
    return ", ".join(f"{_name(part, index)} {float(flat[index]):+.2f}" for index in best)


def _name(part: Activation, index: int) -> str:
    heads = part.shape.get("head", 1)
    layer = part.coords["layer"][index // heads]
    return f"{layer}.{index % heads}" if "head" in part.dims else f"{layer}"
