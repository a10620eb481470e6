"""The command line: what it writes, and how it says no."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import fseg
import fseg.cli
import probe.cli
from tests import zoo
from tests.planted import plant
from tests.system.shell import Shell
from tests.unit.fseg.sams import tiny_sam


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A planted LLaVA folder of 14 layers and 4 x 4 cells, and a SAM file."""
    folder = tmp_path_factory.mktemp("models")
    zoo.save(plant(zoo.llava(layers=14), "plant"), folder / "llava")
    save_file(
        {name: tensor.contiguous() for name, tensor in tiny_sam().state_dict().items() if "pixel" not in name}, folder / "sam.safetensors"
    )
    return str(folder / "llava"), str(folder / "sam.safetensors")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    image = Image.new("RGB", (80, 40), "black")
    image.paste("white", (40, 10, 60, 20))
    path = tmp_path_factory.mktemp("pictures") / "street.png"
    image.save(path)
    return str(path)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


def segment(models: tuple[str, str], *more: str) -> tuple[str, ...]:
    return ("segment", "--recipe", "fseg-llava-1.5-vicuna-7b", "--backbone", models[0], "--sam", models[1], *more)


def test_each_picture_gets_a_folder_of_its_own(shell: Shell, models: tuple[str, str], picture: str, tmp_path: Path) -> None:
    other = tmp_path / "street.jpg"
    Image.new("RGB", (30, 30), "black").save(other)
    arguments = segment(
        models, picture, str(other), "--classes", 'cat, "big" pottedplant', "--assume-present", "--out", str(tmp_path / "out")
    )
    code, out, _ = shell(fseg.cli, *arguments)
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["street", "street-2"]
    written = json.loads((tmp_path / "out/street/result.json").read_text())
    assert [entry["name"] for entry in written["classes"]] == ["cat", '"big" pottedplant']
    assert "street-2: cat (" in out


def test_one_bad_picture_is_reported_and_the_exit_code_says_so(shell: Shell, models: tuple[str, str], picture: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff not a photograph")
    code, _, err = shell(fseg.cli, *segment(models, str(tmp_path / "bad.jpg"), picture, "--classes", "cat", "--out", str(tmp_path / "out")))
    assert code == 1
    assert "bad.jpg" in err
    assert "1 of 2 images failed" in err
    assert (tmp_path / "out/street/labels.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--classes", ""), "Each class needs a name"),
        (("--classes", "cat,cat"), "InvalidClasses: The class 'cat' appears twice"),
        ((), "Name the classes by --classes a,b or by --classes-file FILE"),
        (("--classes", "cat", "--recipe", "fseg"), 'No recipe "fseg". Registered: fseg-gemma-3-12b, '),
        (
            ("--classes", "cat", "--recipe", "fseg-llava-1.6-vicuna-13b"),
            "Layer 15 was asked for, to read hidden states, but this model has layers 0 (embeddings) to 14",
        ),
        (("--classes", "cat", "--backbone", "/no/such/folder"), "LoadError: No model folder '/no/such/folder'"),
        (("--classes", "cat", "--sam", "/no/such/sam.pth"), "InvalidSam"),
        (("--classes", "cat", "--device", "cuda:9"), "DeviceNotFound: Device 'cuda:9' was asked for, this machine has cpu"),
        (("--classes", "cat", "--dtype", "int4"), "No dtype 'int4'"),
        (("--classes", "cat", "--out", "/proc/out"), "OutputError: '/proc/out' cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_message(
    shell: Shell, models: tuple[str, str], picture: str, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = shell(fseg.cli, *segment(models, picture, "--out", str(tmp_path / "out"), *arguments))
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_a_sam_of_another_architecture_says_what_it_holds(shell: Shell, models: tuple[str, str], picture: str, tmp_path: Path) -> None:
    save_file({"encoder.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    arguments = segment(models, picture, "--classes", "cat", "--out", str(tmp_path / "out"), "--sam", str(tmp_path / "other.safetensors"))
    code, _, err = shell(fseg.cli, *arguments)
    assert code == 2
    assert "InvalidSam" in err
    assert "other.safetensors" in err


FUSION = """
import fseg, torch

@fseg.fusion("my own", reads=lambda layers, **_: [])
def own(e, *, layers=(0, 1), power=2.0):
    return torch.ones(e.grid.shape)
"""


def test_a_saved_recipe_with_a_fusion_of_ones_own_is_replayed(shell: Shell, models: tuple[str, str], picture: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FUSION)
    recipe = fseg.get_recipe("fseg-llava-1.5-vicuna-7b").to_toml().partition("[respond]")[0] + '[respond]\nfusion = "my own"\n'
    (tmp_path / "mine.toml").write_text(recipe)
    where = ("--backbone", models[0], "--sam", models[1], "--recipe", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "out"))
    arguments = ("segment", picture, "--classes", "cat", "--assume-present", *where)
    code, _, err = shell(fseg.cli, *arguments)
    assert code == 2
    assert 'No fusion "my own"' in err
    assert "--import MODULE_OR_FILE.py" in err
    assert shell(fseg.cli, *arguments, "--import", str(tmp_path / "own.py"))[0] == 0
    assert fseg.get_recipe(tmp_path / "out/street/recipe.toml").respond.fusion == "my own"
    assert "No file 'none.py' to import" in shell(fseg.cli, "recipes", "--import", "none.py")[2]


def test_no_result_leaves_the_folder_or_replaces_files_of_the_user(
    shell: Shell, models: tuple[str, str], picture: str, tmp_path: Path
) -> None:
    dots = tmp_path / "in" / "...png"
    dots.parent.mkdir()
    Image.open(picture).save(dots, format="PNG")
    arguments = segment(models, str(dots), "--classes", "cat", "--out", str(tmp_path / "in/out"))
    assert shell(fseg.cli, *arguments)[0] == 0
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_dir()) == ["image", "in", "out"]
    (tmp_path / "in/out/image/result.json").write_text("{}")  # not ours
    code, _, err = shell(fseg.cli, *arguments, "--sam", "/no/such/sam")  # refused before a model is looked for
    assert code == 2
    assert "which `fseg segment` did not write there" in err
    assert (tmp_path / "in/out/image/result.json").read_text() == "{}"


def test_failures_are_summed_up_by_their_reasons(shell: Shell, models: tuple[str, str], picture: str, tmp_path: Path) -> None:
    for name in ("one.png", "two\udce9.png"):
        (tmp_path / name).write_text("no picture")
    images = (*sorted(str(path) for path in tmp_path.iterdir()), picture, "a" * 5000)
    code, _, err = shell(fseg.cli, *segment(models, *images, "--classes", "cat", "--out", str(tmp_path / "out")))
    assert code == 1
    lines = err.splitlines()
    start = lines.index("3 of 4 images failed:")
    assert lines[start + 1].startswith("  2  ImageError: the file is not an image in a format that Pillow reads.")
    assert lines[start + 1].endswith("(one.png, two\\udce9.png)")
    assert lines[start + 2].startswith("  1  ImageError: ")
    assert "File name too long" in lines[start + 2]


def test_results_go_to_other_tools(
    shell: Shell, models: tuple[str, str], picture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, coco = tmp_path / "in", tmp_path / "made" / "coco.json"
    folder.mkdir()
    Image.new("RGB", (30, 20), "black").save(folder / "a.png")
    (folder / "b.png").write_text("no picture")
    (folder / "notes.txt").write_text("not read")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path(picture).read_bytes())))
    arguments = segment(models, str(folder), "-", "--classes", "cow,pottedplant", "--assume-present", "--out", str(tmp_path / "out"))
    code, out, _ = shell(fseg.cli, *arguments, "--coco", str(coco), "--polygons", "--json")
    assert code == 1
    a, b, piped = map(json.loads, out.splitlines())
    assert (a["image"], piped["image"]) == (str(folder / "a.png"), "stdin")
    assert (a["image_size"], piped["image_size"]) == ([20, 30], [40, 80])
    assert b == {"image": str(folder / "b.png"), "error": b["error"]}
    assert b["error"].startswith("ImageError: ")
    assert piped["classes"] == json.loads((tmp_path / "out/stdin/result.json").read_text())["classes"]

    written = json.loads(coco.read_text())
    assert [(one["id"], one["file_name"]) for one in written["images"]] == [(1, a["image"]), (2, "stdin")]
    assert written["categories"] == [{"id": 1, "name": "cow"}, {"id": 2, "name": "pottedplant"}]
    features = json.loads((tmp_path / "out/stdin/polygons.geojson").read_text())["features"]
    of_stdin = [one for one in written["annotations"] if one["image_id"] == 2]
    assert [one["properties"]["area"] for one in features] == [one["area"] for one in of_stdin]
    assert any(one["area"] > 0 for one in of_stdin)


def test_what_exists_is_replaced_only_with_overwrite(shell: Shell, models: tuple[str, str], picture: str, tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_text("mine")
    arguments = segment(models, picture, "--classes", "cat", "--out", str(tmp_path / "out"))
    exported = (*arguments, "--coco", str(tmp_path / "coco.json"))
    code, _, err = shell(fseg.cli, *exported, "--sam", "/no/such/sam")  # refused before a model is looked for
    assert (code, (tmp_path / "coco.json").read_text()) == (2, "mine")
    assert "coco.json' exists. Replace it with --overwrite" in err
    assert shell(fseg.cli, *exported, "--polygons", "--overwrite")[0] == 0
    assert json.loads((tmp_path / "coco.json").read_text())["images"][0]["file_name"] == picture
    assert "holds an earlier result. Replace it with --overwrite" in shell(fseg.cli, *arguments)[2]
    assert (tmp_path / "out/street/polygons.geojson").is_file()
    assert shell(fseg.cli, *arguments, "--overwrite")[0] == 0
    assert not (tmp_path / "out/street/polygons.geojson").exists()  # of the result that was replaced


@pytest.mark.parametrize("classes", ["cat\udce9", "a </s> b", "a" * 201])
def test_class_names_that_cannot_be_asked_about_stop_the_command(
    shell: Shell, models: tuple[str, str], picture: str, tmp_path: Path, classes: str
) -> None:
    code, _, err = shell(fseg.cli, *segment(models, picture, "--classes", classes, "--out", str(tmp_path / "out")))
    assert code == 2
    assert err.startswith("InvalidClasses: ")


def test_more_classes_than_a_palette_holds_are_refused_before_the_work(
    shell: Shell, models: tuple[str, str], picture: str, tmp_path: Path
) -> None:
    (tmp_path / "many.txt").write_text("\n".join(f"class {i}" for i in range(256)))
    code, _, err = shell(fseg.cli, *segment(models, picture, "--classes-file", str(tmp_path / "many.txt"), "--out", str(tmp_path / "out")))
    assert code == 2
    assert "256 classes were given; labels.png has room for 255" in err


@pytest.mark.slow
def test_both_figures_are_drawn(shell: Shell, models: tuple[str, str], picture: str, tmp_path: Path) -> None:
    where = ("--recipe", "fseg-llava-1.5-vicuna-7b", "--backbone", models[0], "--sam", models[1])
    for number in ("3", "5"):
        out = tmp_path / f"figure-{number}.png"
        code, _, _ = shell(fseg.cli, "figure", number, picture, "--class", "pottedplant", "--assume-present", "--out", str(out), *where)
        assert code == 0
        width, height = Image.open(out).size
        assert min(width, height) > 200
    for suffix, start in (("jpg", b"\xff\xd8"), ("PDF", b"%PDF"), ("svg", b"<?xml")):
        out = tmp_path / f"figure.{suffix}"
        assert shell(fseg.cli, "figure", "5", picture, "--class", "cat", "--out", str(out), *where)[0] == 0
        assert out.read_bytes().startswith(start)
    code, _, err = shell(fseg.cli, "figure", "3", picture, "--class", " cat", *where, "--out", str(tmp_path / "none.png"))
    assert code == 2
    assert "The model says that there is no cat" in err


def test_view_writes_the_page_of_a_result(shell: Shell, models: tuple[str, str], picture: str, tmp_path: Path) -> None:
    where = ("--backbone", models[0], "--sam", models[1])
    page = tmp_path / "result.html"
    arguments = ("view", picture, "--classes", "cat,pottedplant", "--out", str(page), *where)
    code, out, _ = shell(fseg.cli, *arguments, "--assume-present")
    assert (code, out.startswith(f"{page}  0."), out.endswith("MB, cat, pottedplant\n")) == (0, True, True)
    assert '<td style="text-align: left">pottedplant</td>' in page.read_text(encoding="utf-8")  # without JavaScript, too
    code, _, err = shell(fseg.cli, *arguments)
    assert (code, "--overwrite" in err) == (2, True)
    for to, message in ((picture, "which is an input"), ("", "is a folder. Name a file with --out")):
        code, _, err = shell(fseg.cli, "view", picture, "--classes", "cat", "--out", to)
        assert (code, message in " ".join(err.split())) == (2, True)


def test_a_figure_is_never_written_over_its_picture(shell: Shell, picture: str, tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(picture)
    (tmp_path / "hard.png").hardlink_to(picture)
    before = Path(picture).read_bytes()
    for out in (picture, str(tmp_path / "link.png"), str(tmp_path / "hard.png")):
        code, _, err = shell(fseg.cli, "figure", "5", picture, "--class", "cat", "--out", out)
        assert code == 2
        assert "would be written over" in err
    assert Path(picture).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("figure", "5", "a.png", "--class", "cat", "--out", "figure.xyz"), "A figure is one of png, jpg"),
        (("figure", "5", "a.png", "--class", "cat", "--out", "figure"), "has no suffix that names a figure's format"),
        (("figure", "5", "a.png", "--class", "cat", "--out", ""), "--out is empty"),
        (("figure", "5", "a" * 5000, "--class", "cat", "--out", "figure.png"), "File name too long"),
        (("segment", "a.png", "--classes", "cat", "--out", ""), "--out is empty"),
        (("demo", "--out", ""), "--out is empty"),
        (("eval", "--dataset", "folder", "--root", ".", "--out", ""), "--out is empty"),
        (("demo", "--seed", "-1"), "greater than or equal to 0"),
    ],
)
def test_places_and_numbers_that_mean_nothing_are_refused(shell: Shell, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = shell(fseg.cli, *arguments)
    assert code == 2
    assert message in err


def test_the_recipes_are_listed(shell: Shell) -> None:
    code, out, _ = shell(fseg.cli, "recipes")
    assert code == 0
    tuned = [
        name + variant
        for name in (
            "fseg-llava-1.5-vicuna-7b",
            "fseg-llava-1.6-mistral-7b",
            "fseg-llava-1.6-vicuna-13b",
            "fseg-llava-1.6-vicuna-7b",
            "glyphs",
        )
        for variant in ("", "-fast", "-stuff")
    ]
    others = [
        f"fseg-{name}" for name in ("gemma-3-12b", "internvl3-8b", "llava-onevision-7b", "qwen2.5-vl-7b", "qwen3-vl-8b", "smolvlm2-2.2b")
    ]
    fusions = [
        f"{name}-{fusion}"
        for name in ("fseg-llava-1.5-vicuna-7b", "glyphs")
        for method in ("heads", "lens", "relative", "tam")
        for fusion in (method, f"d-{method}")
    ]
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert list(lines) == sorted(["stickers", "stickers-dynamic", *tuned, *fusions, *others])
    assert [name for name, line in lines.items() if line.endswith("(not calibrated)")] == others
    assert "table-3/7-17" in shell(fseg.cli, "recipes", "--ablations")[1]


def test_help_teaches(shell: Shell) -> None:
    _, out, _ = shell(fseg.cli, "segment", "--help")
    assert "--assume-present" in out
    assert "Example: fseg segment street.jpg" in out


def test_probe_verifies_a_folder(shell: Shell, tmp_path: Path) -> None:
    folder = zoo.save(zoo.llava(), tmp_path)
    code, out, _ = shell(probe.cli, "verify", str(folder), "--stretch")
    assert code == 0
    assert out.count("pass") == 14
    assert "Attention under sdpa, a separate eager run" in out


def test_probe_inspects_a_folder(shell: Shell, models: tuple[str, str]) -> None:
    code, out, _ = shell(probe.cli, "inspect", models[0])
    assert code == 0
    assert "model.language_model.layers.{0..13}.self_attn (14 of 14 blocks)" in out
    code, _, err = shell(probe.cli, "inspect", "/no/such/folder")
    assert code == 2
    assert "No model folder" in err


@pytest.mark.parametrize("module", [fseg.cli, probe.cli], ids=["fseg", "probe"])
def test_the_version_is_that_of_the_package(shell: Shell, module: object) -> None:
    assert shell(module, "--version")[:2] == (0, f"fseg-llava {probe.__version__}\n")


def test_view_writes_a_page_and_replaces_none_unasked(shell: Shell, models: tuple[str, str], picture: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    arguments = ("view", models[0], picture, "--ask", "Is there a cat?", "--answer", "yes, a cat", "--stretch", "--out", str(page))
    code, out, _ = shell(probe.cli, *arguments)
    assert (code, out.startswith(f"{page}  0.")) == (0, True)
    written = page.read_bytes()
    code, _, err = shell(probe.cli, *arguments)
    assert (code, "--overwrite" in err) == (2, True)
    code, *_ = shell(probe.cli, *arguments, "--overwrite", "--no-lens")
    assert (code, len(page.read_bytes()) < len(written)) == (0, True)
