"""Result: the labels of one image and the evidence for them; Failure: an image with an error instead."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save as to_safetensors

import probe
from fseg.checks import check_int
from fseg.drawing.label_map import overlay, save_labels
from fseg.drawing.page import result_page
from fseg.drawing.palette import class_palette
from fseg.errors import InvalidClasses
from fseg.evidence import Evidence
from fseg.export import coco, detections, polygons, segments
from fseg.export.archive import write_masks
from fseg.export.masks import ClassMask
from fseg.labels.values import BACKGROUND, IGNORED
from fseg.recipe import Recipe
from probe.disk import strict_json
from probe.disk.files import write_atomically, write_json
from probe.notebook import Frame, Html, image_of, section, swatch, table
from probe.tokens.equality import equal_fields, equal_values
from probe.views.page.shell import check_new

if TYPE_CHECKING:
    import supervision
    from matplotlib.figure import Figure

RESULT = "result.json"
"""The file that marks a folder as a saved result: it is written first."""

NOTEBOOK_WIDTH = 320
"""Of the image in a notebook, in pixels."""

PACKAGES = ("fseg-llava", "torch", "transformers", "nnsight", "segment-anything")


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """One segmented image. It can be pickled, copied and compared: two results are equal if all their fields are.

    Attributes:
        image: the original, RGB.
        labels: int64 (height, width); 0 is background, i + 1 is `classes[i]`.
        classes: the class names given, in order.
        evidence: for each class its answer, maps and prompts.
        recipe: the recipe that was run.
        models: the models that ran it.
        sam_masks: for each class SAM's mask, bool (height, width), or None if it has none; see `masks`.

    >>> scene = fseg.glyphs.scene(1)
    >>> result = fseg.Segmenter()(scene.image, scene.classes)
    >>> result.present == scene.classes, result.labels.shape == scene.labels.shape
    (True, True)
    """

    image: Image.Image
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    evidence: Mapping[str, Evidence]
    recipe: Recipe
    models: Mapping[str, str]
    sam_masks: Mapping[str, NDArray[np.bool_] | None]

    def __eq__(self, other: object) -> bool:
        return equal_fields(self, other) if isinstance(other, Result) else NotImplemented

    def __repr__(self) -> str:
        height, width = self.labels.shape
        present = shorten(", ".join(self.present), 60, placeholder=" ...") or "none"
        count = f"{len(self.present)} of {len(self.classes)} classes present: {present}"
        return f"Result({width} x {height} pixels, {count}; recipe {self.recipe.name!r})"

    def _repr_html_(self) -> Html:
        colours = class_palette(self.classes)[1:].tolist()
        head, rows = ("class", "answer", "margin", "pixels", "score", "flags"), []
        for i, (name, e) in enumerate(self.evidence.items()):
            mark = swatch("rgba({}, {}, {}, 0.5)".format(*colours[i % 255]), name) if e.present else name
            margin, score = ("" if value is None else f"{value:.2f}" for value in (e.margin, e.score))
            rows.append((mark, e.answer, margin, str(self.area(name)), score, ", ".join(e.flags)))
        drawn = overlay(self.image, self.labels, self.classes, legend=False)
        return section(repr(self), image_of(drawn, NOTEBOOK_WIDTH), table(rows, head))

    @property
    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """For each class SAM's mask, bool (height, width), which may overlap others; all False for a class without a mask."""
        empty = np.zeros(self.labels.shape, dtype=np.bool_)
        return {name: empty if (mask := self.sam_masks[name]) is None else mask for name in self.classes}

    @property
    def present(self) -> tuple[str, ...]:
        """The classes for which the model answered yes."""
        return tuple(name for name in self.classes if self.evidence[name].present)

    def area(self, name: str) -> int:
        """The pixels that a class has in `labels`, which may be fewer than those of its mask.

        Raises:
            InvalidClasses: no class of this result.
        """
        if name not in self.classes:
            raise InvalidClasses(f"{name!r} is no class of this result. Its classes: {', '.join(self.classes)}.")
        return int((self.labels == self.classes.index(name) + 1).sum())

    @property
    def _class_masks(self) -> list[ClassMask]:
        """What exports contain: the classes whose mask has a pixel, each with its whole mask."""
        return [ClassMask(name, i, mask, self.evidence[name].score) for i, (name, mask) in enumerate(self.masks.items(), 1) if mask.any()]

    def to_coco(self, image_id: int) -> list[dict[str, object]]:
        """A COCO annotation for each class that has a mask, in the order of `classes`, ready for JSON.

        `segmentation` is pycocotools' run-length encoding of the class's own mask, which may overlap others; `category_id` is the place in
        `classes`, from 1; `bbox` is (x, y, width, height) in pixels, `area` the pixels of the mask, `score` the IoU that SAM predicts. The
        list is what `pycocotools.coco.COCO.loadRes` takes; `fseg.export.coco.dataset` makes a file of the annotations of many images.

        Args:
            image_id: of every annotation; at least 0.

        Raises:
            InvalidOption: image_id is not such a number.
            PackageNeeded: pycocotools is not installed.

        >>> (cat,) = fseg.Segmenter()(fseg.glyphs.scene(1).image, ["star", "cat"]).to_coco(7)
        >>> cat["image_id"], cat["category_id"], cat["segmentation"]["size"]
        (7, 2, [435, 306])
        """
        check_int("image_id", image_id, at_least=0)
        return coco.encoded_masks(self._class_masks, image_id)

    def to_geojson(self) -> dict[str, object]:
        """A GeoJSON FeatureCollection: for each class that has a mask a MultiPolygon, holes included, along the edges of the mask's pixels.

        Coordinates are pixels (x, y) of the image, y downwards: the first pixel is the square from (0, 0) to (1, 1). `properties` are the
        `name` of the class, its `label` in the label map, the `area` of its own mask in pixels, and its `score`.

        Raises:
            PackageNeeded: shapely is not installed.
        """
        return polygons.feature_collection(self._class_masks)

    def to_detections(self) -> supervision.Detections:
        """supervision's Detections: one for each class that has a mask, in the order of `classes`.

        `class_id` is the place in `classes`, from 0, as supervision counts; `data["class_name"]` the name, `mask` the class's own mask,
        `confidence` the IoU that SAM predicts, `xyxy` the first and the last column and row of the mask (supervision's `mask_to_xyxy`).

        Raises:
            PackageNeeded: supervision is not installed.
        """
        return detections.detections(self._class_masks, (self.image.height, self.image.width))

    def segments(self) -> list[segments.Segment]:
        """What Hugging Face's image-segmentation pipeline returns: a dict of `score`, `label` and `mask` for each class that has a mask.

        The mask is the class's own, a PIL image of mode L in the size of the image, 255 inside and 0 outside; `label` is the class's name,
        `score` the IoU that SAM predicts.
        """
        return segments.segments(self._class_masks)

    def plot(self) -> Figure:
        """A figure of the image, its labels, and the maps of each class that is present."""
        from fseg.drawing.figures import panel  # imports matplotlib, which only a figure needs

        return panel(self.image, self)

    def overlay(self) -> Image.Image:
        """The image with its labels drawn over it."""
        return overlay(self.image, self.labels, self.classes)

    def page(self, to: str | Path, *, overwrite: bool = False) -> Path:
        """Write the result as one HTML file to look at in a browser: the answers, and for each class every step from D~ to SAM's mask.

        The file needs no server and no network. Its sliders for alpha and beta recompute Eq. 4 to 12: D, D_f and M^_f exactly, M_v and M_r but
        for cells that are equally close to both prototypes, since the features' cosines are in it in 16 bits. What needs a model, such as
        SAM's masks, is drawn as it was computed, and so is the response of a fusion other than "D", "M_A" and "D*M_A".

        Args:
            to: the file.
            overwrite: replace a file that exists.

        Returns:
            the file's path.

        Raises:
            OutputError: the file exists, or cannot be written.
            NotFinite: a margin or a score is NaN or infinite.
            PackageNeeded: matplotlib, whose colour maps are used, is not installed.

        >>> fseg.Segmenter()(fseg.glyphs.scene(1).image, ["cat", "star"]).page("result.html").name
        'result.html'
        """
        path = Path(to)
        check_new(path, overwrite=overwrite)
        document = result_page(self)
        write_atomically(path, lambda file: file.write(document))
        return path

    def show(self, height: int = 800) -> Frame:
        """What `page` shows, in a notebook, where it is the last line of a cell. Nothing is written.

        Args:
            height: of the frame, in pixels.

        Raises:
            NotFinite: a margin or a score is NaN or infinite.
            PackageNeeded: matplotlib, whose colour maps are used, is not installed.

        >>> fseg.Segmenter()(fseg.glyphs.scene(1).image, ["cat"]).show().height
        800
        """
        return Frame(result_page(self).decode(), height)

    def to_dict(self) -> dict[str, object]:
        """The result without its maps, as plain values: the content of `result.json`."""
        return {
            "image_size": list(self.labels.shape),
            "classes": [_class_to_dict(self.evidence[name], i, self.area(name)) for i, name in enumerate(self.classes, 1)],
            "recipe": self.recipe.to_dict(),
            "models": dict(self.models),
            "versions": versions(),
        }

    def _label_names(self) -> dict[str, str]:
        """The name of each label that `labels` may contain."""
        names = {BACKGROUND: "background"} | dict(enumerate(self.classes, 1))
        ignored = {} if self.recipe.compose.fill == "background" else {IGNORED: "ignored"}
        return {str(label): name for label, name in (names | ignored).items()}

    def save(self, folder: str | Path) -> Path:
        """Write `labels.png`, `classes.json`, `masks.npz`, `overlay.png`, `result.json`, `evidence.safetensors` and `recipe.toml`.

        `labels.png` is a palette image whose pixel values are the labels, and `classes.json` names each label: `{"0": "background", ...}`.
        `masks.npz`, for `numpy.load`, has the whole mask of each class that has one, bool (height, width), under the class's name.
        `evidence.safetensors` contains each class's maps under "<index>/<map>", with the index of the class in `classes`; its metadata has
        the names, and `result.json` the pixels that the maps' grid covers. Each file is written atomically.

        Raises:
            OutputError: the folder cannot be made or written.
            NotFinite: a margin, a score or a point is NaN or infinite; nothing is written.

        >>> import tempfile
        >>> result = fseg.Segmenter()(fseg.glyphs.scene(1).image, ["cat"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(sorted(path.name for path in result.save(folder).iterdir()))
        ['classes.json', 'evidence.safetensors', 'labels.png', 'masks.npz', 'overlay.png', 'recipe.toml', 'result.json']
        """
        target = Path(folder)
        described = strict_json.dump(self.to_dict(), indent=2)
        maps = {
            # Two maps may share a tensor (with fusion "D" the response is the distance), which safetensors does not write.
            f"{i}/{kind}": values.clone(memory_format=torch.contiguous_format)
            for i, name in enumerate(self.classes)
            for kind, values in self.evidence[name].maps().items()
        }
        write_atomically(target / RESULT, lambda file: file.write(described))
        save_labels(target / "labels.png", self.labels, self.classes)
        write_json(target / "classes.json", self._label_names())
        write_atomically(target / "masks.npz", lambda file: write_masks(file, self._class_masks))
        write_atomically(target / "overlay.png", lambda file: self.overlay().save(file, "PNG"))
        write_atomically(
            target / "evidence.safetensors", lambda file: file.write(to_safetensors(maps, {"classes": json.dumps(list(self.classes))}))
        )
        write_atomically(target / "recipe.toml", lambda file: file.write(self.recipe.to_toml().encode()))
        return target


@dataclass(frozen=True, eq=False)
class Failure:
    """An image that could not be segmented.

    Attributes:
        image: the image, as it was passed.
        error: the reason.

    >>> (failure,) = fseg.Segmenter().map(["missing.png"], ["cat"])
    >>> type(failure.error).__name__
    'ImageError'
    """

    image: probe.ImageLike
    error: Exception

    def __eq__(self, other: object) -> bool:
        """Errors are equal if their types and arguments are."""
        if not isinstance(other, Failure):
            return NotImplemented
        same_error = type(self.error) is type(other.error) and self.error.args == other.error.args
        return same_error and equal_values(self.image, other.image)

    def __str__(self) -> str:
        name = str(self.image) if isinstance(self.image, (str, Path)) else type(self.image).__name__
        return f"{name}: {type(self.error).__name__}: {self.error}"


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that affect a result."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _class_to_dict(e: Evidence, label: int, area: int) -> dict[str, object]:
    return {
        "name": e.name,
        "label": label,
        "asked_as": e.asked_as,
        "present": e.present,
        "answer": e.answer,
        "margin": e.margin,
        "grid": {"name": e.grid.name, "rows": e.grid.rows, "cols": e.grid.cols, "box": list(e.grid.box)},
        "points": [list(point) for point in e.points],
        "negatives": [list(point) for point in e.negatives],
        "box": list(e.box) if e.box is not None else None,
        "area": area,
        "score": e.score,
        "flags": list(e.flags),
    }
