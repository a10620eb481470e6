"""Text-Visual Response (paper, section 3.3): one response map a class, from its hidden states and attention, by a fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import field, frozen

import probe
from fseg.errors import NoMap
from fseg.evidence import Evidence
from fseg.fusion_methods.registry import Fusion, Option, Options, get_fusion


@frozen
class Respond:
    """The respond stage (TVR): a fusion by name, with its options.

    Attributes:
        fusion: a registered name: "D", "M_A" and "D*M_A" are the rows of Table 5.
        options: the fusion's options; those left out take their defaults.

    Raises:
        UnknownFusion, InvalidOption, InvalidBand: on construction, before any forward.

    >>> Respond("D", {"layers": (5, 9)})
    Respond(fusion='D', options={'layers': (5, 9), 'alpha': 0.75, 'beta': 0.19, 'class_token': 'last'})
    """

    fusion: str = "D*M_A"
    options: Mapping[str, Option] = field(factory=Options)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "options", self._fusion.options(self.options))
        self.reads()  # a fusion checks the values of its options here

    @property
    def _fusion(self) -> Fusion:
        return get_fusion(self.fusion)

    def reads(self) -> list[probe.Read]:
        """The activations that this stage needs."""
        return list(self._fusion.reads(self.options))

    def __call__(self, e: Evidence) -> Evidence:
        """The evidence with its response map (D_f, Eq. 8), and the maps from which the fusion computed it."""
        return self._fusion(e, self.options)


def best_synonym(synonyms: Sequence[Evidence]) -> Evidence:
    """The evidence with the largest peak of D~ among several names of one class.

    Where a fusion returned no D~, its response is compared instead.

    Raises:
        NoMap: one of them has no response yet.
    """
    return max(synonyms, key=_peak)


def _peak(e: Evidence) -> float:
    if e.relevance is None:
        raise NoMap(f'"{e.asked_as}" has no response map to compare synonyms by: run the respond stage on it first.')
    return float(e.relevance.max())
