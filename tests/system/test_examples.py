"""The examples in docstrings: all run, and every public class, method and function has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fseg
import fseg.glyphs
import probe
from fseg.fusion_methods import registry as fusion_methods
from probe.backbones import registry as backbones

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("probe", "fseg", "recipes")
    for path in (ROOT / package).rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)


@cache
def names() -> dict[str, Any]:
    """What every example may use: the packages, the embedded model, and a scene that it has never seen."""
    scene = fseg.glyphs.scene(1)
    model = probe.load(fseg.glyphs.llava_folder(), resize="stretch", tiles=False)
    return {"probe": probe, "fseg": fseg, "torch": torch, "np": np, "model": model, "image": scene.image}


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # examples may write files, and register backbones and fusions
    monkeypatch.setattr(backbones, "BACKBONES", dict(backbones.BACKBONES))
    own = {name: known for name, known in fusion_methods.REGISTRY.items() if known.origin.startswith("fseg.")}  # none of other tests
    monkeypatch.setattr(fusion_methods, "REGISTRY", own)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    output: list[str] = []
    module = importlib.import_module(name)
    for example in finder.find(module, name, globs={**vars(module), **names()}):
        runner.run(example, out=output.append)
    assert runner.failures == 0, "".join(output)
    assert runner.tries > 0


def documented(package: Any) -> Iterator[tuple[str, Any]]:
    """The public classes and functions of a package."""
    for name in sorted(package.__all__):
        value = getattr(package, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            yield f"{package.__name__}.{name}", value


PUBLIC = [*documented(probe), *documented(fseg)]


@pytest.mark.parametrize(("name", "value"), PUBLIC, ids=[name for name, _ in PUBLIC])
def test_every_public_name_has_an_example(name: str, value: Any) -> None:
    if inspect.isclass(value) and issubclass(value, Exception):
        return  # what raises it is documented where it is raised
    methods = [member for key, member in vars(value).items() if inspect.isfunction(member) and not key.startswith("_")]
    assert ">>>" in (inspect.getdoc(value) or ""), f"{name} has no example"
    if value is probe.Probe:
        assert [method.__name__ for method in methods if ">>>" not in (method.__doc__ or "")] == []
