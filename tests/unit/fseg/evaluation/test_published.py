"""The published figures, and our own beside them."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

import fseg
from fseg.errors import InvalidDataSet, UnknownRecipe
from fseg.evaluation.report.ablations import ablation, ablation_rows, passes
from fseg.evaluation.report.published import COLUMNS, TABLE_1
from fseg.evaluation.report.results import read_results
from fseg.evaluation.report.tables import ablation_markdown, ablation_table, comparison
from probe.errors import LoadError
from tests import zoo

BASE = fseg.get_recipe("fseg-llava-1.5-vicuna-7b")
PRINTED_MEANS = [32.4, 34.8, None, None, 31.6, 33.4, 36.2, 33.4, 36.2, 34.5, 36.3, 35.7, 35.7, 36.8, 35.6]
"""The last column of the paper's Table 1."""


def result(data_set: str, miou: float, **more: Any) -> dict[str, Any]:
    whole = {"images": 10, "images_of_the_whole_set": None, "limit": None, "shard": "1/1", "missing_files": 0, "failed": 0}
    named = {"recipe": {"name": "mine"}, "class_list": "natural", "models": {"backbone": "llava-hf/llava-1.5-7b-hf"}}
    return {"data_set": data_set, "miou": miou, **whole, **named, **more}


def test_the_figures_have_the_means_that_the_paper_prints() -> None:
    for row, mean in zip([row for row in TABLE_1 if row.in_paper], PRINTED_MEANS, strict=True):
        known = [value for value in row.miou if value is not None]
        assert (len(known) == 5) == (mean is not None)
        if mean is not None:
            assert sum(known) / 5 == pytest.approx(mean, abs=0.0501), row.method


def test_the_comparison_has_the_two_methods_that_the_paper_leaves_out() -> None:
    lines = {line.split()[0]: line.split() for line in comparison().splitlines() if ("[a]" in line and "CLIP" in line) or "Trident" in line}
    assert lines["CorrCLIP"][1:] == ["[a]", "ViT-B", "ICCV'25", "no", "74.8", "44.2", "43.7", "31.6", "26.9", "44.2"]
    assert lines["Trident"][-6:] == ["70.8", "40.1", "42.2", "28.6", "26.7", "41.7"]


def test_our_figures_make_one_row_a_recipe_and_class_list() -> None:
    ours = [result(name, 0.5 + 0.01 * i) for i, name in enumerate(COLUMNS)]
    (line,) = [line for line in comparison([*ours, result("glyphs", 0.9)]).splitlines() if line.startswith("mine")]
    assert line.split()[-6:] == ["50.0", "51.0", "52.0", "53.0", "54.0", "52.0"]
    assert "mine, natural" in line
    assert "llava-1.5-7b-hf" in line


@pytest.mark.parametrize(
    "partial", [{"limit": 5}, {"shard": "1/2"}, {"missing_files": 1}, {"failed": 1}, {"images_of_the_whole_set": 1449}]
)
def test_a_figure_of_less_than_the_whole_set_is_marked(partial: dict[str, Any]) -> None:
    printed = comparison([result("voc21", 0.68, **partial)])
    assert "68.0*" in printed
    assert "* not the whole set" in printed


def test_the_same_set_measured_twice_makes_two_rows() -> None:
    printed = comparison([result("voc21", 0.68), result("voc21", 0.67)])
    assert sum(line.startswith("mine") for line in printed.splitlines()) == 2


def test_a_model_without_the_papers_layers_gets_every_band_of_three(tmp_path: Path) -> None:
    folder = zoo.save(zoo.llava(), tmp_path)
    rows = ablation_rows(3, BASE, str(folder))
    assert list(rows) == ["0-2", "1-3", "2-4"]
    assert rows["1-3"].respond.options["layers"] == (1, 3)
    assert rows["1-3"].name == "fseg-llava-1.5-vicuna-7b/table-3/1-3"


def test_a_model_with_the_papers_layers_gets_its_rows(tmp_path: Path) -> None:
    folder = zoo.save(zoo.llava(layers=30), tmp_path)
    assert list(ablation_rows(3, BASE, str(folder)))[-1] == "22-30"


def test_a_model_whose_layers_cannot_be_counted_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"How many layers .* has cannot be read"):
        ablation_rows(3, BASE, str(tmp_path))


def test_code_that_comes_with_a_model_is_neither_run_nor_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "new", "auto_map": {"AutoConfig": "new.NewConfig"}}))
    (tmp_path / "new.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass NewConfig: pass\n")
    monkeypatch.setattr("sys.stdin", StringIO("y\n"))
    with pytest.raises(LoadError, match="without running Python code that comes with it"):
        ablation_rows(3, BASE, str(tmp_path))
    assert not (tmp_path / "ran").exists()
    assert capsys.readouterr().out == ""


def test_rows_that_ask_alike_share_a_look_of_the_model() -> None:
    assert passes(ablation(5, BASE)) == 1
    assert passes(ablation(2, BASE)) == 3
    with pytest.raises(UnknownRecipe, match="Table 7 is no ablation of the paper"):
        ablation(7, BASE)


def test_our_figure_stands_beside_the_papers() -> None:
    ours = {"data_set": "glyphs", "images": 200, "rows": {"D": {"miou": 0.743}, "M_A": {"miou": None}, "D*M_A": {"miou": 0.755}}}
    lines = [line.split() for line in ablation_table(5, ours).splitlines()]
    assert lines[2:] == [["D", "74.3", "67.3", "65.6"], ["M_A", "-", "27.3", "34.7"], ["D*M_A", "75.5", "68.0", "65.9"]]
    assert "ours on glyphs, 200 images" in ablation_table(5, ours)


def test_in_markdown_it_is_the_same_table() -> None:
    ours = {"data_set": "glyphs", "images": 200, "rows": {"D": {"miou": 0.743}, "D*M_A": {"miou": 0.755}}}
    title, _, *lines = ablation_markdown(5, ours).splitlines()
    assert title == "Table 5: respond.fusion, mIoU in percent (ours on glyphs, 200 images; the paper on VOC21)."
    assert lines[0] == "| | ours | LLaVA-1.5 | LLaVA-1.6 |"
    assert lines[2:] == ["| `D` | 74.3 | 67.3 | 65.6 |", "| `D*M_A` | 75.5 | 68.0 | 65.9 |"]


def test_a_band_that_the_paper_did_not_try_has_no_printed_figure() -> None:
    ours = {"data_set": "glyphs", "images": 200, "rows": {"0-2": {"miou": 0.5}}}
    assert ablation_table(3, ours).splitlines()[-1].split() == ["0-2", "50.0", "-", "-"]


def test_results_are_found_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "runs/voc").mkdir(parents=True)
    (tmp_path / "runs/voc/results.json").write_text(json.dumps(result("voc21", 0.5)))
    assert [one["miou"] for one in read_results([tmp_path])] == [0.5]
    with pytest.raises(InvalidDataSet, match=r"No results\.json in"):
        read_results([tmp_path / "none"])


@pytest.mark.parametrize("content", ["{", '{"miou": NaN}', "[]", '{"task": "another program\'s"}', '{"rows": [1]}'])
def test_results_that_are_damaged_or_of_another_program_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(InvalidDataSet, match=r"results\.json' (cannot be read as|does not hold) the results of a run"):
        read_results([tmp_path])
