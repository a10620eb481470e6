"""Data sets in their real layouts: what is found, what is missing, what the values mean."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fseg.errors import InvalidClasses, InvalidDataSet, InvalidTruth, MissingFiles
from fseg.evaluation.datasets.declarations import BENCHMARKS, data_set
from fseg.evaluation.datasets.label_maps import read_truth, write_mask
from fseg.evaluation.datasets.label_values import STUFF_IDS, LabelValues, as_they_are, object_ids, shifted, stuff_ids
from fseg.evaluation.datasets.readers import check_complete, counted_tree, read_index, tree
from tests.unit.fseg.evaluation import trees


def truths(name: str, root: Path) -> dict[str, list[list[int]]]:
    """The labels of every image of a set."""
    return {sample.name: read_truth(sample.truth, sample.values).tolist() for sample in read_index(data_set(name, root), root).samples}


def test_voc_reads_the_indices_of_its_palette(tmp_path: Path) -> None:
    trees.voc(tmp_path, {"2007_000033": [[0, 1, 255], [20, 15, 255]], "2007_000042": [[0, 0, 0]]})
    (tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").write_text("2007_000033\n")
    assert truths("voc21", tmp_path) == {"2007_000033": [[0, 1, 255], [20, 15, 255]]}


def test_context_has_a_tree_of_its_own(tmp_path: Path) -> None:
    trees.voc(tmp_path, {"2008_000002": [[59, 0, 255]]}, "VOC2010", "SegmentationClassContext", "SegmentationContext")
    assert truths("context60", tmp_path) == {"2008_000002": [[59, 0, 255]]}


def test_raw_coco_ids_become_the_171_labels_of_stuff(tmp_path: Path) -> None:
    trees.coco(tmp_path, "000000000139", [[0, 10, 12, 89], [91, 181, 255, 64 - 1]])
    # 11 is absent, so 12 is the label 11; 89 is the last thing, 79; 91, banner, the first stuff, 80; 181, wood, the last, 170.
    # Below 63, the ids 11, 25, 28, 29 and 44 are absent.
    assert truths("coco-stuff", tmp_path) == {"000000000139": [[0, 10, 11, 79], [80, 170, 255, 58]]}


def test_raw_coco_stuff_and_unlabelled_pixels_are_background_for_objects(tmp_path: Path) -> None:
    trees.coco(tmp_path, "000000000139", [[0, 10, 12, 89], [91, 181, 255, 63]])
    assert truths("coco-object", tmp_path) == {"000000000139": [[1, 11, 12, 80], [0, 0, 0, 59]]}


def test_converted_coco_labels_are_read_where_they_are(tmp_path: Path) -> None:
    trees.coco(tmp_path, "000000000139", [[12, 181]], labelTrainIds=[[1, 255]], instanceTrainIds=[[80, 0]])
    trees.coco(tmp_path, "000000000285", [[12, 181]])
    assert truths("coco-stuff", tmp_path) == {"000000000139": [[1, 255]], "000000000285": [[11, 170]]}
    assert truths("coco-object", tmp_path) == {"000000000139": [[80, 0]], "000000000285": [[12, 0]]}


def test_ade_ignores_zero_and_shifts_the_rest(tmp_path: Path) -> None:
    trees.ade(tmp_path, "ADE_val_00000001", [[0, 1, 150]])
    assert truths("ade150", tmp_path) == {"ADE_val_00000001": [[255, 0, 149]]}


def test_a_folder_takes_its_classes_from_its_own_list(tmp_path: Path) -> None:
    trees.folder(tmp_path, "background\ncat\nhot cup\n\n", {"b": [[0, 2, 255]], "a": [[1]]})
    declared = data_set("folder", tmp_path)
    assert (declared.labels, declared.background, declared.classes) == (3, True, ("cat", "hot cup"))
    assert truths("folder", tmp_path) == {"a": [[1]], "b": [[0, 2, 255]]}


def test_a_folder_without_background_gives_label_0_to_its_first_class(tmp_path: Path) -> None:
    trees.folder(tmp_path, "sky\nroad\n", {"a": [[0, 1]]})
    declared = data_set("folder", tmp_path)
    assert (declared.labels, declared.background, declared.classes) == (2, False, ("sky", "road"))


@pytest.mark.parametrize(
    ("classes", "message"), [("cat\nCat\n", "appears twice"), ("cat\n\ndog\n", "Each class needs a name"), ("", "No classes were given")]
)
def test_a_folder_whose_list_is_wrong_is_refused(tmp_path: Path, classes: str, message: str) -> None:
    trees.folder(tmp_path, classes, {"a": [[0]]})
    with pytest.raises(InvalidClasses, match=message):
        data_set("folder", tmp_path)


def test_files_in_capitals_and_of_any_format_belong_to_a_folder(tmp_path: Path) -> None:
    trees.folder(tmp_path, "cat\n", {"a": [[0]]})
    trees.picture(tmp_path / "images/b.JPEG")
    trees.labels(tmp_path / "labels/b.png", [[0, 0, 0], [0, 0, 0]])
    assert list(truths("folder", tmp_path)) == ["a", "b"]
    trees.picture(tmp_path / "images/b.png")
    with pytest.raises(InvalidDataSet, match="two images 'b'"):
        read_index(data_set("folder", tmp_path), tmp_path)


def test_missing_files_are_counted_and_named(tmp_path: Path) -> None:
    trees.voc(tmp_path, {name: [[0]] for name in ("a", "b", "c", "d")})
    base = tmp_path / "VOCdevkit/VOC2012"
    (base / "JPEGImages/b.jpg").unlink()
    for name in ("b", "c", "d"):
        (base / f"SegmentationClass/{name}.png").unlink()
    index = read_index(BENCHMARKS["voc21"], tmp_path)
    message = r"^4 files of the set are not there: '.*Images/b\.jpg', '.*b\.png', '.*c\.png' and others\. --allow-missing"
    with pytest.raises(MissingFiles, match=message) as raised:
        check_complete(index, allow_missing=False)
    assert "d.png" not in str(raised.value)
    check_complete(index, allow_missing=True)
    assert [sample.name for sample in index.samples] == ["a"]


def test_labels_without_their_image_are_missing_too(tmp_path: Path) -> None:
    trees.ade(tmp_path, "ADE_val_00000001", [[0]])
    (tmp_path / "ADEChallengeData2016/images/validation/ADE_val_00000001.jpg").unlink()
    with pytest.raises(MissingFiles, match="No image has its labels: check the root"):
        check_complete(read_index(BENCHMARKS["ade150"], tmp_path), allow_missing=True)


def test_a_split_that_is_empty_or_lists_an_image_twice_is_refused(tmp_path: Path) -> None:
    trees.voc(tmp_path, {"a": [[0]]})
    listed = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    listed.write_text("\n")
    with pytest.raises(InvalidDataSet, match="voc21 has no images"):
        read_index(BENCHMARKS["voc21"], tmp_path)
    listed.write_text("a\na\n")
    with pytest.raises(InvalidDataSet, match="lists 'a' twice"):
        read_index(BENCHMARKS["voc21"], tmp_path)
    listed.unlink()
    with pytest.raises(InvalidDataSet, match=r"val\.txt' cannot be read"):
        read_index(BENCHMARKS["voc21"], tmp_path)


def test_an_unknown_set_and_a_wrong_root_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataSet, match="voc21, context60, coco-object, coco-stuff, ade150, folder, glyphs"):
        data_set("voc", tmp_path)
    with pytest.raises(InvalidDataSet, match="JPEGImages"):
        read_index(BENCHMARKS["voc21"], tmp_path / "no")


def test_a_listing_counts_each_kind_of_file(tmp_path: Path) -> None:
    trees.coco(tmp_path, "000000000139", [[12]], labelTrainIds=[[1]])
    trees.coco(tmp_path, "000000000285", [[12]])
    assert [line.split() for line in counted_tree(BENCHMARKS["coco-stuff"], tmp_path).splitlines()] == [
        ["images/val2017/*.jpg", "2"],
        ["annotations/val2017/*_labelTrainIds.png", "1"],
        ["annotations/val2017/*.png", "2"],
    ]
    assert "annotations/val2017/*_instanceTrainIds.png" in tree(BENCHMARKS["coco-object"])


def test_a_palette_picture_saved_as_rgb_is_refused(tmp_path: Path) -> None:
    Image.open(trees.labels(tmp_path / "a.png", [[0, 1]], colours=True)).convert("RGB").save(tmp_path / "rgb.png")
    with pytest.raises(InvalidTruth, match=r"rgb\.png' is an image of mode RGB"):
        read_truth(tmp_path / "rgb.png", as_they_are(21))


def test_labels_of_16_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 300]], dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InvalidTruth, match="of mode I;16"):
        read_truth(tmp_path / "deep.png", as_they_are(21))


def test_a_label_beyond_the_list_is_refused(tmp_path: Path) -> None:
    path = trees.labels(tmp_path / "a.png", [[0, 21, 255]])
    with pytest.raises(InvalidTruth, match=r"has the values 21, which stand for no label here: 0\.\.20, 255 do"):
        read_truth(path, as_they_are(21))
    with pytest.raises(InvalidTruth, match="has the values 11"):
        read_truth(trees.labels(tmp_path / "b.png", [[11]]), stuff_ids())


def test_labels_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    path = trees.labels(tmp_path / "a.png", np.random.default_rng(0).integers(0, 20, (60, 60)).tolist())
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(InvalidTruth, match="cannot be read"):
        read_truth(path, as_they_are(21))


@pytest.mark.parametrize("limit", [Image.MAX_IMAGE_PIXELS, None], ids=["of Pillow", "lifted"])
def test_labels_that_promise_too_many_pixels_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    content = trees.labels(tmp_path / "a.png", [[0, 1]]).read_bytes()
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + content[24:29]
    (tmp_path / "a.png").write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(InvalidTruth, match=r"(3600000000|60000 x 60000) pixels"):
        read_truth(tmp_path / "a.png", as_they_are(21))


def test_what_is_no_file_of_labels_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    trees.labels(tmp_path / "a.png", [[0, 1]])
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name in ("pipe.png", "folder.png"):
        with pytest.raises(InvalidTruth, match=rf"{name}' are no regular file"):
            read_truth(tmp_path / name, as_they_are(21))
    for name in ("loop.png", "nothing.png", "a.png/b.png", "n" * 5_000, "nul\0.png"):
        with pytest.raises(InvalidTruth, match="cannot be read") as raised:
            read_truth(tmp_path / name, as_they_are(21))
        assert len(str(raised.value)) < 600


@pytest.mark.parametrize("values", [as_they_are(21), shifted(150), stuff_ids(), object_ids()], ids=["voc", "ade", "stuff", "object"])
def test_a_written_mask_reads_back_as_what_it_was(tmp_path: Path, values: LabelValues) -> None:
    known = np.array([sorted(set(values.labels.values()))])
    write_mask(tmp_path / "a.png", known, values)
    assert read_truth(tmp_path / "a.png", values).tolist() == known.tolist()


def test_a_written_mask_has_the_values_of_the_sets_own_truth(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", np.array([[0, 11, 170, 255]]), stuff_ids())
    drawn = Image.open(tmp_path / "a.png")
    assert drawn.mode == "P"
    assert np.asarray(drawn).tolist() == [[0, 12, 181, 255]]


def test_coco_has_171_ids_of_which_80_are_things() -> None:
    assert len(STUFF_IDS) == 171
    assert sum(value <= 90 for value in STUFF_IDS) == 80
