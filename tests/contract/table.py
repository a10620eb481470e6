"""Write docs/zoo.md: `python -m tests.contract.table`. Sorted by name; the same on every run."""

from __future__ import annotations

import probe  # isort: skip  # noqa: F401  # first: transformers imports torchvision

import math
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers

from probe.backbones import backbone_for
from probe.runtime import Runtime
from probe.sessions.policies import exact_policies
from tests import families
from tests.contract.edited import measure as measure_edits
from tests.contract.edited import tower_rows
from tests.contract.parity import NOT_THE_FEATURES, Parity, measure

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"
HEAD = f"""# The zoo: every image-text-to-text model of transformers

Written by `python -m tests.contract.table` (transformers {transformers.__version__}, torch {torch.__version__.split("+")[0]}, CPU, float32); asserted by
`tests/contract/test_discovered_families.py`. Each family is built tiny, with random weights as large as trained ones and an image in its
input, and what `probe` reads is compared with plain Hugging Face's tensors: the largest absolute difference.

- *Hidden*, *Logits*: every layer and position, of the same attention kernel.
- *Rows*: attention of the last two positions in every block that has it, against a separate forward with eager attention, which itself
  differs from the running kernel's by the order of sums. *Law 5*: the rows times the values against the running kernel's own output,
  relative to a head's largest value.
- *Vision*: every state of the tower, against PyTorch hooks and the tower's own `hidden_states`. The last one is what the last block returns;
  some towers have Hugging Face put their own output there, after a norm or a merger.
- *Projected*: the image tokens that the first block takes, against `get_image_features`.
- *Parts*: `AttentionOutput`, `MLPOutput` and `HeadOutput` of every block, against PyTorch hooks. *Calls*: `Queries`, `Keys` and `Values`,
  against the arguments of the attention call. A hidden state plus these parts is the next one, but for the factors and the families that
  `tests/contract/test_parts.py` lists.
- *Edits*: the logits under zero, replace, add, scale and apply of hidden states, of each part, of `Vision` and of `Projected`, against hooks
  that do the same. *Block*: the logits under blocked keys, against eager attention with the mask written by hand ("–": the family computes
  its attention without transformers' interface, or over an encoder's states too).
- *Tower*: `VisionAttention`, against the weights of eager attention ("–": no call of the interface, or several).
- *Grid*: whether a backbone says where image tokens lie on the image ([how to add one](backbones.md)); "none" where they lie nowhere, for the
  reason in the remarks. Each grid was painted cell by cell at the real geometry of its processor (`tests/contract/test_real_geometry.py`).
- *Shares*: how questions share the image's part of the prompt, each answered as it would be alone; "–": each is asked alone.

`mistral4` (text alone), `evolla` (proteins) and `pi0` (a robot's actions) are listed by transformers too, and take no image and words. `inkling2_loop`
passes through some blocks several times, so that no block has one state; its image tokens, tower and logits can be read. `apertus1p5` and
`hy_v4_vl` came with transformers 5.24; under an older one the command keeps their rows.

| family | class | Hidden | Rows | Law 5 | Vision | Projected | Logits | Parts | Calls | Edits | Block | Tower | Grid | Shares | remarks |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def lines() -> Iterator[str]:
    """A row for each family; of one that the installed transformers lacks, the page's own."""
    written = {line.split("`")[1]: line for line in PAGE.read_text().splitlines() if line.startswith("| `")}
    for name in sorted(families.FAMILIES):
        if families.is_lacking(name):
            yield written[name]
            continue
        found, edited, tower = measure(name), measure_edits(name), tower_rows(name)
        cells = [
            f"`{name}`",
            f"`{found.model}`",
            _bound(found.hidden),
            _bound(found.rows),
            _bound(found.formula),
            _bound(found.vision),
            _bound(found.projected),
            _bound(found.logits),
            _bound(edited.parts),
            _bound(edited.call),
            _bound(max(edited.edits.values())),
            _bound(edited.block),
            "–" if isinstance(tower, str) else _bound(tower),
            found.grid,
            _shares(name),
            _remarks(found),
        ]
        yield f"| {' | '.join(cells)} |"


def _bound(difference: float | None) -> str:
    """The power of ten below which a difference lies, so that a page written elsewhere says the same."""
    if difference is None:
        return "–"
    return "0" if difference == 0 else f"< 1e{math.floor(math.log10(difference)) + 1}"


def _shares(name: str) -> str:
    offered, _ = exact_policies(Runtime(families.build(name)[0]))
    return ", ".join(offered) or "–"


def _remarks(found: Parity) -> str:
    said = [" ".join((families.FAMILIES[found.family].__doc__ or "").split())]
    said += [f"*{read}*: {reason}" for read, reason in found.unreadable.items()]
    if reason := backbone_for(families.build(found.family)[0].config).no_grid_reason:
        said.append(f"*Grid*: {reason}.")
    if found.family in NOT_THE_FEATURES:
        said.append(f"*Projected* is not what `get_image_features` returns: {NOT_THE_FEATURES[found.family]}.")
    return " ".join(filter(None, said))


if __name__ == "__main__":
    PAGE.write_text(HEAD + "\n".join(lines()) + "\n")
