"""What a run captured, in words."""

from __future__ import annotations

from dataclasses import dataclass

from probe.notebook import Html, section, table
from probe.tokens.span import shortened
from probe.tracing.activation.indexing import listed
from probe.tracing.capturing.captured import Captured
from probe.tracing.capturing.lookup import attention_selections, described
from probe.tracing.reads import position_names


@dataclass(frozen=True)
class Row:
    """One kind of what was captured.

    Attributes:
        kind: "hidden states", "attention"...
        layers: where, such as "layers 3, 4"; empty for logits.
        positions: of which tokens; empty for what is not of tokens, or of several kinds of positions.
    """

    kind: str
    layers: str = ""
    positions: str = ""

    def __str__(self) -> str:
        return f"{self.kind}{self.layers and f' of {self.layers}'}{self.positions and f' {self.positions}'}"


def rows_of(captured: Captured) -> list[Row]:
    """What was captured: hidden states, other states by their read, attention, the vision tower, logits."""
    hidden = [(address.layer, at) for address, at in captured.states if address.read == "Hidden"]
    rows = []
    if hidden:
        layers = listed(sorted({layer for layer, _ in hidden}))
        rows.append(Row("hidden states", f"layers {layers}", f"at {position_names(at for _, at in hidden)}"))
    for read in dict.fromkeys(address.read for address, _ in captured.states if address.read != "Hidden"):
        rows.append(Row(read, f"layers {listed(sorted({a.layer for a, _ in captured.states if a.read == read}))}"))
    if captured.attention:
        blocks = listed(sorted({block for block, _ in captured.attention}))
        rows.append(Row("attention", f"blocks {blocks}", f"from {described(attention_selections(captured))}"))
    if captured.vision:
        rows.append(Row("vision states", f"layers {listed(sorted(captured.vision))}"))
    if captured.logits:
        rows.append(Row("logits", "", f"at {position_names(captured.logits)}"))
    return rows


def summary(captured: Captured) -> str:
    """In one line."""
    return "; ".join(shortened(str(row), 120) for row in rows_of(captured)) or "nothing read"


def summary_table(captured: Captured, title: str) -> Html:
    """As a table for a notebook."""
    return section(title, table([(row.kind, row.layers, row.positions) for row in rows_of(captured)], ("read", "where", "positions")))
