"""Code of others that registers recipes and fusions: installed packages (entry-point group `fseg.recipes`) and `--import MODULE_OR_FILE.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import cache
from hashlib import sha256
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from os.path import isfile
from pathlib import Path

from fseg.errors import ImportFailed
from probe.plugins import PlugIns

GROUP = "fseg.recipes"


def packages() -> PlugIns:
    """The entry points of the group; read once, since searching all installed packages takes milliseconds."""
    return _read_by(entry_points)


@cache
def _read_by(read: Callable[..., Iterable[EntryPoint]]) -> PlugIns:
    return PlugIns(GROUP, read(group=GROUP))


def import_named(names: Iterable[str]) -> tuple[str, ...]:
    """Import modules by name, and files by their path, which ends with .py. What is imported already is not imported again.

    Returns:
        the names by which another process can import the same: for a file, its absolute path.

    Raises:
        ImportFailed: no such module or file, or its code fails.
    """
    return tuple(_file(name) if name.endswith(".py") else _module(name) for name in names)


def _module(name: str) -> str:
    try:
        import_module(name)
    except (Exception, SystemExit) as error:  # the user's own code, which can fail in any way
        raise _failed(name, error) from error
    return name


def _file(name: str) -> str:
    if not isfile(Path(name).expanduser()):
        raise ImportFailed(f"No file {name!r} to import. Check the path, or name an installed module.")
    path = Path(name).expanduser().resolve()
    # A unique name: a file called torch.py must not replace torch.
    own = f"fseg_import_{sha256(str(path).encode(errors='surrogateescape')).hexdigest()[:12]}_{path.stem}"
    if own in sys.modules:
        return str(path)
    spec = spec_from_file_location(own, path)
    if spec is None or spec.loader is None:
        raise ImportFailed(f"{name!r} does not read as a Python file. Give a .py file or an installed module.")
    sys.modules[own] = module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's own code, which can fail in any way
        del sys.modules[own]
        raise _failed(name, error) from error
    return str(path)


def _failed(name: str, error: BaseException) -> ImportFailed:
    hint = " A file is named by its path, which ends with .py." if isinstance(error, ModuleNotFoundError) and error.name == name else ""
    return ImportFailed(f"--import {name} failed: {type(error).__name__}: {error}.{hint}")
