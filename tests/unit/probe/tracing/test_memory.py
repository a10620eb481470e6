"""What a run leaves behind: nothing that waits for Python's garbage collector, which would not come by before a GPU is full."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest
import torch
from PIL import Image

import probe
from probe import edit
from tests import zoo

READS: dict[str, probe.Read] = {
    "states": probe.Hidden("all", at="image"),
    "attention": probe.Attention("all", query=-1, key="image"),
    "vision": probe.Vision([-2]),
    "logits": probe.Logits(at=-1),
    "a module": probe.Module("model.multi_modal_projector"),
}


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    hf, processor = zoo.llava()
    return probe.load(model=hf, processor=processor, resize="stretch")


@pytest.fixture
def collector() -> Iterator[None]:
    """The garbage collector, which comes only when it is called, and does not look at what was there before."""
    gc.collect()
    gc.freeze()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield
    gc.set_debug(0)
    gc.enable()
    gc.unfreeze()


def shapes_of_garbage() -> list[tuple[int, ...]]:
    """Of the tensors that only the garbage collector frees; it forgets them."""
    gc.collect()
    found = [tuple(one.shape) for one in gc.garbage if isinstance(one, torch.Tensor)]
    gc.garbage.clear()
    return found


def work(model: probe.Probe, wide_image: Image.Image) -> dict[str, Callable[[], object]]:
    x = model.encode(wide_image, "cat")
    zeroed = edit.zero(probe.Hidden(1, at="image"))
    session = model.open(wide_image)
    return {
        **{f"run, {name}": lambda read=read: model.run(x, read) for name, read in READS.items()},  # type: ignore[misc]
        "run, edited": lambda: model.run(x, READS["states"], edits=[zeroed]),
        "generate, edited": lambda: model.generate(x, max_new_tokens=2, edits=[zeroed]),
        "a session": lambda: session.trace(session.ask(["cat", "dog"], max_new_tokens=2), [READS["states"]]),
    }


@pytest.mark.usefixtures("collector")
def test_no_tensor_of_a_run_waits_for_the_garbage_collector(model: probe.Probe, wide_image: Image.Image) -> None:
    for name, do in work(model, wide_image).items():
        do()  # what is made once and kept, such as the order of the modules
        shapes_of_garbage()
        do()
        assert shapes_of_garbage() == [], name


@pytest.mark.usefixtures("collector")
def test_the_callers_of_a_run_are_freed_with_it(model: probe.Probe, wide_image: Image.Image) -> None:
    def caller() -> None:
        held = torch.zeros(3)
        model.run(x, READS["states"])
        assert held.sum() == 0

    x = model.encode(wide_image, "cat")
    shapes_of_garbage()
    caller()
    assert shapes_of_garbage() == []
