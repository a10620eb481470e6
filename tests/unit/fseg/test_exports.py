"""The package `fseg`: its public names, each imported when it is first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fseg


def test_every_public_name_is_there_and_listed() -> None:
    for name in fseg.__all__:
        assert getattr(fseg, name).__name__.rpartition(".")[2] == name
    assert {"Segmenter", "Recipe", "Result", "fusion", "recipes", "errors"} <= set(fseg.__all__) <= set(dir(fseg))


def test_the_names_are_those_of_a_fresh_process_too() -> None:
    code = "import fseg; assert fseg.errors.FsegError is fseg.FsegError; assert {'D', 'M_A'} <= set(fseg.fusions()); assert fseg.recipes()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_function_is_not_hidden_by_a_module() -> None:
    code = "import fseg.pipeline, fseg.fusion_methods.registry; assert callable(fseg.fusions) and callable(fseg.recipes)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="fseg attribute Segmentor"):
        fseg.Segmentor  # noqa: B018
    assert not hasattr(fseg, "__wrapped__")


@pytest.mark.slow
def test_threads_may_use_different_names_first() -> None:
    code = """
import threading, probe, fseg
failures = []
def use(package, name):
    try:
        getattr(package, name)
    except BaseException as error:
        failures.append(repr(error))
names = [(probe, "load"), (probe, "verify"), (fseg, "Segmenter"), (probe, "Session")]
threads = [threading.Thread(target=use, args=one) for one in names]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(failures)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
