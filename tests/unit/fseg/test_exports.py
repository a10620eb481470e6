"""The package `fseg`: its public names, each imported when it is first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fseg


def test_every_public_name_is_there_and_listed() -> None:
    for name in fseg.__all__:
        assert getattr(fseg, name).__name__ == name
    assert set(fseg.__all__) <= set(dir(fseg))


def test_a_submodule_is_an_attribute_too() -> None:
    code = "import fseg; assert fseg.errors.FsegError is fseg.FsegError; assert fseg.plugins.GROUP == 'fseg.recipes'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_function_is_not_hidden_by_a_module() -> None:
    code = "import fseg.pipeline, fseg.fusion_methods.registry; assert callable(fseg.fusions) and callable(fseg.recipes)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error_that_lists_those_there_are() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'Segmentor'\. It has Evidence, Failure, .*, Segmenter,"):
        fseg.Segmentor  # noqa: B018
    assert not hasattr(fseg, "__wrapped__")
