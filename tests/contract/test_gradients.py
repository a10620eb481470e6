"""Gradients equal torch.autograd on plain Hugging Face. Norm: the largest absolute difference, over the largest value.

The same kernels run forward and backward on the same tensors, so most families agree to the bit. Where weights need gradients too, as in the
reference, PyTorch takes other kernels for some products: a few roundings of float32, so 1e-5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import probe
from probe.tracing.sites import token_states
from tests import families, zoo
from tests.families.daily import daily

TOLERANCE = 1e-5


def difference(logits: Tensor) -> Tensor:
    return logits[-1, 7].float() - logits[-1, 5].float()


def reference(model: probe.Probe, inputs: Mapping[str, Tensor], modules: list[str]) -> dict[str, Tensor]:
    """The gradients of the first tensors that these modules return, by PyTorch's own hooks and autograd, with weights that need gradients."""
    hf: Any = model.model
    given: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        def hook(_module: nn.Module, _inputs: object, output: Any) -> None:
            given.setdefault(path, output if isinstance(output, Tensor) else output[0])

        return hook

    hooks = [hf.get_submodule(path).register_forward_hook(keep(path)) for path in modules]
    hf.requires_grad_(True)
    try:
        logits = hf(**model.backbone.forward_inputs(hf, inputs), use_cache=False).logits
        gradients = torch.autograd.grad(sum(difference(row) for row in logits), [given[path] for path in modules])
    finally:
        hf.requires_grad_(False)
        for hook in hooks:
            hook.remove()
    return dict(zip(modules, gradients, strict=True))


def apart(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("name", daily(sorted(families.FAMILIES)))
def test_gradients_of_two_layers_in_one_call_equal_autograd(name: str) -> None:
    hf, inputs = families.build(name)
    model = probe.load(model=hf)
    depth = len(model.modules.layers)
    layers = [1, max(2, depth - 1)] if depth > 2 else [1]
    assert len(layers) == 2 or depth == 2
    trace = model.gradients(inputs, of=difference, to=probe.Hidden(layers))
    theirs = reference(model, inputs, [model.modules.layers[layer - 1] for layer in layers])
    for layer in layers:
        expected = token_states(theirs[model.modules.layers[layer - 1]], len(trace.tokens), model.modules.axes)
        assert float(expected.abs().max()) > 0
        assert apart(trace.hidden(layer=layer).data, expected) <= TOLERANCE


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_gradients_of_every_kind_of_read_equal_autograd_with_an_image(kernel: str, wide_image: Image.Image) -> None:
    hf, processor = zoo.llava()
    hf.set_attn_implementation(kernel)
    model = probe.load(model=hf, processor=processor)
    encoding = model.encode(wide_image, "Is there a cat?")
    paths = {
        probe.Hidden(2): "model.language_model.layers.1",
        probe.Projected(): "model.multi_modal_projector",
        probe.AttentionOutput(1): "model.language_model.layers.1.self_attn",
        probe.MLPOutput(3): "model.language_model.layers.3.mlp",
    }
    trace = model.gradients(encoding, of=difference, to=list(paths))
    theirs = reference(model, encoding.inputs, list(paths.values()))
    for read, path in paths.items():
        ours = trace[read].data
        assert apart(ours[0] if ours.ndim == 4 else ours, theirs[path]) <= TOLERANCE


def test_the_gradients_of_heads_are_those_of_the_attention_through_the_projection(wide_image: Image.Image) -> None:
    hf, processor = zoo.llava()
    model = probe.load(model=hf, processor=processor)
    encoding = model.encode(wide_image, "Is there a cat?")
    heads = probe.HeadOutput(1, at="image")
    trace = model.gradients(encoding, of=difference, to=[heads, probe.AttentionOutput(1)])
    attention = trace[probe.AttentionOutput(1, at="image")].data[0, 0]
    expected = (attention @ hf.get_submodule("model.language_model.layers.1.self_attn.o_proj").weight).unflatten(-1, (4, -1))
    assert apart(trace[heads].data[0, 0].transpose(0, 1), expected) <= TOLERANCE
