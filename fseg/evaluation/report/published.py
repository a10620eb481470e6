"""What was published: the paper's comparison (Table 1), its ablations (Tables 2 to 6), and two methods that it cites but leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COLUMNS = ("voc21", "context60", "coco-object", "coco-stuff", "ade150")
"""The data sets of Table 1."""


@dataclass(frozen=True)
class Published:
    """A row of Table 1.

    Attributes:
        trained: the method trains for the task.
        miou: in percent on each of `COLUMNS`; None where it was not reported.
        in_paper: the paper's table has it.
    """

    method: str
    backbone: str
    venue: str
    miou: tuple[float | None, float | None, float | None, float | None, float | None]
    trained: bool = False
    in_paper: bool = True


TABLE_1 = (
    Published("CoDe", "CLIP", "CVPR'24", (57.5, 30.5, 32.3, 23.9, 17.7), trained=True),
    Published("DINOiser", "CLIP+DINO", "ECCV'24", (62.1, 32.4, 34.8, 24.6, 20.0), trained=True),
    Published("CaR", "CLIP", "CVPR'24", (48.5, 30.5, 36.6, None, 17.7)),
    Published("PnP-OVSS", "BLIP", "CVPR'24", (None, None, 36.2, 17.9, 14.2)),
    Published("ClearCLIP", "CLIP", "ECCV'24", (51.8, 32.6, 33.0, 23.9, 16.7)),
    Published("SCLIP", "CLIP", "ECCV'24", (61.7, 31.5, 32.1, 23.9, 17.8)),
    Published("ProxyCLIP", "CLIP+DINO", "ECCV'24", (61.3, 35.3, 37.5, 26.5, 20.2)),
    Published("LaVG", "CLIP+DINO", "ECCV'24", (62.1, 31.6, 34.2, 23.2, 15.8)),
    Published("LPOSS", "CLIP+DINO", "CVPR'25", (62.9, 34.1, 35.1, 26.5, 22.2)),
    Published("ResCLIP", "CLIP", "CVPR'25", (61.1, 33.5, 35.0, 24.7, 18.0)),
    Published("FreeCP", "CLIP", "ICCV'25", (65.8, 35.3, 37.2, 24.9, 18.4)),
    Published("FSeg-LLaVA1.5", "Vicuna-7B", "-", (68.0, 30.6, 42.0, 21.2, 16.9)),
    Published("FSeg-LLaVA1.6", "Mistral-7B", "-", (65.1, 32.4, 40.0, 23.2, 17.9)),
    Published("FSeg-LLaVA1.6", "Vicuna-7B", "-", (65.9, 33.4, 41.6, 23.1, 20.0)),
    Published("FSeg-LLaVA1.6", "Vicuna-13B", "-", (64.1, 32.9, 39.1, 23.3, 18.7)),
    Published("Trident", "ViT-H", "ICCV'25", (70.8, 40.1, 42.2, 28.6, 26.7), in_paper=False),
    Published("CorrCLIP", "ViT-B", "ICCV'25", (74.8, 44.2, 43.7, 31.6, 26.9), in_paper=False),
)


@dataclass(frozen=True)
class Row:
    """A row of an ablation.

    Attributes:
        value: what the table's switch is set to.
        printed: mIoU on VOC21 in percent, of LLaVA-1.5 and of LLaVA-1.6 with Vicuna-7B.
    """

    value: object
    printed: tuple[float, float]


@dataclass(frozen=True)
class Table:
    """An ablation: the recipe's key that it varies, and its rows by name, in the paper's order."""

    key: str
    rows: Mapping[str, Row]


def _words(printed: Mapping[str, tuple[float, float]]) -> dict[str, Row]:
    return {word: Row(word, figures) for word, figures in printed.items()}


def band_name(band: tuple[int, int]) -> str:
    """(7, 13) as "7-13"."""
    return f"{band[0]}-{band[1]}"


BANDS: dict[tuple[int, int], tuple[float, float]] = {
    (5, 9): (63.7, 64.5),
    (7, 9): (65.8, 64.6),
    (7, 11): (66.7, 65.8),
    (7, 13): (68.0, 65.9),
    (7, 17): (66.8, 65.2),
    (10, 13): (67.6, 64.4),
    (15, 22): (49.1, 55.8),
    (22, 30): (15.2, 19.7),
}
"""Table 3: the bands of layers (l_s, l_e), and what was printed for them."""

ABLATIONS: dict[int, Table] = {
    2: Table("ask.question", _words({"photo": (67.9, 65.7), "contain": (67.1, 62.4), "class": (68.0, 65.9)})),
    3: Table("respond.layers", {band_name(band): Row(band, printed) for band, printed in BANDS.items()}),
    4: Table("prompt.kind", _words({"point": (61.4, 59.5), "box": (57.8, 56.6), "both": (68.0, 65.9)})),
    5: Table("respond.fusion", _words({"D": (67.3, 65.6), "M_A": (27.3, 34.7), "D*M_A": (68.0, 65.9)})),
    6: Table("refine.mask", _words({"M_v": (48.4, 60.0), "M^_f": (67.3, 65.1), "both": (68.0, 65.9)})),
}
