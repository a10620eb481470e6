"""The files that `fseg segment` writes for other tools: a COCO file of all images, and polygons of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fseg.cli.folders import refuse_existing, refuse_inputs
from fseg.errors import OutputError
from fseg.export.coco import dataset
from fseg.export.masks import needed_package
from fseg.result import Result
from probe.disk import strict_json
from probe.disk.files import check_writable, write_atomically

POLYGONS = "polygons.geojson"
"""The file of an image's polygons, in its folder."""


@dataclass
class Exports:
    """What was asked for, and what has come together so far.

    Attributes:
        classes: the class names, in order.
        coco: the COCO file, if there is to be one.
        polygons: whether each image gets a file of polygons.
        images: file name -> (height, width), of the images so far.
        annotations: of these images, in order.
    """

    classes: tuple[str, ...]
    coco: Path | None
    polygons: bool
    images: dict[str, tuple[int, int]] = field(default_factory=dict)
    annotations: list[dict[str, object]] = field(default_factory=list)

    def check(self, inputs: Sequence[Path], folders: Sequence[Path], *, overwrite: bool) -> None:
        """Check before the work that the files can be written.

        Args:
            folders: of the results.
            overwrite: the COCO file may be replaced.

        Raises:
            PackageNeeded: a package of the extra `[export]` is not installed.
            OutputError: the COCO file exists and may not be replaced, is an input, lies in the folder of a result, or cannot be written.
        """
        if self.polygons:
            needed_package("shapely", "--polygons")
        if self.coco is None:
            return
        needed_package("pycocotools.mask", "--coco")
        refuse_inputs([self.coco], inputs)
        refuse_existing(self.coco, "--coco", overwrite=overwrite)
        if folder := next((folder for folder in folders if folder in (self.coco, *self.coco.parents)), None):
            raise OutputError(f"{str(self.coco)!r} lies in {str(folder)!r}, the folder of a result. Name another file with --coco.")
        check_writable(self.coco.absolute().parent)

    def add(self, result: Result, image: Path, folder: Path) -> None:
        """Write an image's polygons into its folder, and remember its annotations.

        Raises:
            OutputError: the polygons cannot be written.
        """
        if self.polygons:
            described = strict_json.dump(result.to_geojson())
            write_atomically(folder / POLYGONS, lambda file: file.write(described))
        else:
            (folder / POLYGONS).unlink(missing_ok=True)  # of the result that this one replaces
        if self.coco is not None:
            self.images[str(image)] = (result.image.height, result.image.width)
            self.annotations += result.to_coco(len(self.images))

    def finish(self) -> None:
        """Write the COCO file.

        Raises:
            OutputError: it cannot be written.
        """
        if self.coco is not None:
            described = strict_json.dump(dataset(self.classes, self.images, self.annotations))
            write_atomically(self.coco, lambda file: file.write(described))
