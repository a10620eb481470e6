"""Packages that bring recipes and fusions: one that is broken costs the others nothing, and one may build on another's recipes."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import fseg
from fseg.errors import ImportFailed, UnknownFusion, UnknownRecipe
from fseg.evaluation.run.job import Job, open_sweep
from fseg.plugins import import_named

Install = Callable[..., None]

FUSION = """
import fseg, torch

@fseg.fusion("{name}", reads=lambda **_: [])
def own(e, *, power=2.0):
    return torch.zeros(e.grid.shape)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a package of one module, with its entry points of the group `fseg.recipes`."""
    monkeypatch.syspath_prepend(tmp_path)

    def installed(package: str, code: str, **entries: str) -> None:
        (tmp_path / f"{package}.py").write_text(code)
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {package}:{attribute}" for name, attribute in entries.items()]
        (folder / "entry_points.txt").write_text("\n".join(["[fseg.recipes]", *lines]))
        # Another function, so that the entry points are read again.
        monkeypatch.setattr("fseg.plugins.entry_points", lambda group: entry_points(group=group))

    yield installed
    for name in [name for name in sys.modules if name.endswith("_one")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("def ALL(): return ALL()", "RecursionError"),
        ("ALL = ['glyphs']", "The entry point yields a str. It has to yield a Recipe"),
        ("", "has no attribute 'ALL'"),
    ],
)
def test_a_broken_package_is_named_once_and_the_others_go_on(install: Install, code: str, reason: str) -> None:
    install("broken_one", code, mine="ALL")
    with pytest.warns(UserWarning, match=rf"package broken_one\).*{reason}"):
        assert fseg.get_recipe("glyphs").name == "glyphs"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "glyphs" in fseg.recipes()
        with pytest.raises(UnknownRecipe, match=rf'No recipe "mine"\. Registered: .*package broken_one\).*{reason}'):
            fseg.get_recipe("mine")


@pytest.mark.parametrize(
    "code",
    [
        "import fseg; ALL = fseg.get_recipe('glyphs').with_({'name': 'mine'})",
        "import fseg\ndef ALL(): return fseg.get_recipe('glyphs').with_({'name': 'mine'})",
        "import fseg; ALL = fseg.get_recipe('fseg-llava-1.5-vicuna-7b').with_({'name': 'mine'})",
    ],
    ids=["module", "function", "of an entry point with another name"],
)
@pytest.mark.parametrize("first", ["shelf", "package"])
@pytest.mark.filterwarnings("error::UserWarning")
def test_a_package_may_make_its_recipes_of_the_registered_ones(install: Install, code: str, first: str) -> None:
    install("building_one", code, mine="ALL")
    if first == "package":
        __import__("building_one")
    assert fseg.get_recipe("mine").respond == fseg.get_recipe("glyphs" if "glyphs" in code else "fseg-llava-1.5-vicuna-7b").respond


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_package_may_build_on_another_one_that_is_being_imported(install: Install) -> None:
    install("a_one", "import fseg; A = fseg.get_recipe('glyphs').with_({'name': 'a'})", a="A")
    install("b_one", "import fseg; B = fseg.get_recipe('a').with_({'name': 'b'})", b="B")
    __import__("a_one")
    assert fseg.get_recipe("b").respond == fseg.get_recipe("glyphs").respond


def test_a_saved_recipe_finds_the_fusion_of_an_installed_package(install: Install, tmp_path: Path) -> None:
    install("fusing_one", FUSION.format(name="of a package"), mine="own")
    (tmp_path / "mine.toml").write_text('name = "x"\nbackbone = "y"\n[respond]\nfusion = "of a package"\npower = 3.0\n')
    assert fseg.get_recipe(tmp_path / "mine.toml").respond.options["power"] == 3.0


def test_a_recipe_sent_to_another_process_finds_the_fusion_of_an_imported_file(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(FUSION.format(name="of a file"))  # a name that must not stand in for torch
    (name,) = import_named([str(tmp_path / "torch.py")])
    assert import_named([name]) == (name,)
    recipe = fseg.get_recipe("glyphs").with_({"respond.fusion": "of a file"})
    (tmp_path / "recipe").write_bytes(pickle.dumps(recipe))
    code = "import sys, pickle; from fseg.plugins import import_named; import_named(sys.argv[1:2]); import torch; torch.zeros(1)"
    code += "; print(pickle.load(open(sys.argv[2], 'rb')).respond.reads())"
    ran = subprocess.run([sys.executable, "-c", code, name, str(tmp_path / "recipe")], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_an_unknown_fusion_says_how_its_module_is_named() -> None:
    with pytest.raises(UnknownFusion, match=r"--import MODULE_OR_FILE\.py"):
        fseg.get_fusion("nobody's")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module", "ModuleNotFoundError: No module named 'no_such_module'. A file is named by its path"),
        ("no/such/file.py", "No file 'no/such/file.py' to import"),
        ("", "--import  failed: ValueError"),
        ("a" * 5000 + ".py", "No file"),
    ],
)
def test_what_cannot_be_imported_is_refused(name: str, message: str) -> None:
    with pytest.raises(ImportFailed, match=message):
        import_named([name])


def test_a_file_whose_code_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("1 / 0")
    for _ in range(2):
        with pytest.raises(ImportFailed, match=r"own\.py failed: ZeroDivisionError: division by zero"):
            import_named([str(tmp_path / "own.py")])


def test_a_worker_of_an_evaluation_imports_what_its_job_names(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("1 / 0")
    job = Job("glyphs", tmp_path, {"glyphs": fseg.get_recipe("glyphs")}, imports=(str(tmp_path / "own.py"),))
    with pytest.raises(ImportFailed, match="ZeroDivisionError"):  # by what a worker does first
        open_sweep(job, None)
