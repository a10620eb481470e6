"""Localisation heads (Kang et al., CVPR 2025): the few attention heads whose maps look at one object, section 3 and Fig. 5.

Their criteria: a head attends to the image at all, and its map has low spatial entropy. `fseg heads` ranks a model's heads over a set.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

import probe
from fseg.checks import check_choice, check_int, check_number, shown
from fseg.errors import InvalidOption
from fseg.evidence import Evidence
from fseg.fusion_methods.attention import select_rows
from fseg.fusion_methods.distance import suppress
from fseg.fusion_methods.maps import gaussian, share_of_peak
from fseg.fusion_methods.registry import fusion

QUERIES = ("before answer", "class")


def core(rows: Float[Tensor, "head row col"], sigma: float) -> Float[Tensor, "row col"]:
    """The heads' maps smoothed and summed, where the sum exceeds its mean."""
    total = gaussian(rows, sigma).sum(0)
    return suppress(total, total.mean())


def _reads(heads: Sequence[Sequence[int]], top_k: int, sigma: float, query: str) -> list[probe.Read]:
    check_int("top_k", top_k, at_least=1)
    check_number("sigma", sigma, at_least=0)
    check_choice("query", query, QUERIES)
    if not all(
        isinstance(pair, tuple) and len(pair) == 2 and all(type(number) is int and number >= 0 for number in pair) for pair in heads
    ):
        raise InvalidOption(
            f"heads={shown(heads)}: takes pairs of a decoder block and a head, counted from 0, such as ((14, 1), (14, 24))."
        )
    blocks = sorted({block for block, _ in heads})
    return [probe.Attention(layers=blocks or "all", query=query, key="image", heads="all")]


@fusion("heads", reads=_reads)
def heads(
    e: Evidence, *, heads: Sequence[tuple[int, int]] = (), top_k: int = 3, sigma: float = 1.0, query: str = "before answer"
) -> Tensor:
    """Attention of a few heads from the token before the answer to the image.

    Args:
        heads: (block, head) pairs, as `fseg heads` finds them. Empty: in each image the `top_k` heads of lowest spatial entropy, of those
            with at least the median attention to the image.
        sigma: of the Gaussian, in cells.
        query: whose attention: "before answer", the paper's last token of the prompt, or "class", the last token of the name.
    """
    rows = e.fold_each(e.attention_heads(query, "image")[:, :, -1]).cpu()  # (block, head, row, col)
    if not heads:
        rows = rows.flatten(0, 1)
        return share_of_peak(core(rows[select_rows(rows, top_k)], sigma))
    place = {block: index for index, block in enumerate(sorted({block for block, _ in heads}))}
    if too_high := [pair for pair in heads if pair[1] >= rows.shape[1]]:
        raise InvalidOption(f"heads={shown(heads)}: this model's blocks have heads 0 to {rows.shape[1] - 1}, there is no {too_high[0]}.")
    return share_of_peak(core(torch.stack([rows[place[block], head] for block, head in heads]), sigma))
