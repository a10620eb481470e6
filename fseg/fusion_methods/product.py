"""Products of fusions by name: the response of the first, weighted by those of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import probe
from fseg.evidence import RESPONSE_MAPS, Evidence
from fseg.fusion_methods.declaration import Fusion
from fseg.fusion_methods.maps import share_of_peak
from fseg.fusion_methods.options import Option, Options


def product(name: str, factors: Sequence[Fusion]) -> Fusion:
    """The fusion whose response is the first's times those of the others, each as a share of its peak.

    So the response keeps the scale of the first, for which the refine stage's threshold is meant, and "D" times "M_A" is "D*M_A". The other
    maps are the first that a factor returns. An option that an earlier factor has too is called after its fusion: `lens_layers`.
    """
    names: list[dict[str, str]] = []  # of each factor: its option -> the product's
    defaults: dict[str, Option] = {}
    for factor in factors:
        names.append({option: f"{factor.name}_{option}" if option in defaults else option for option in factor.defaults})
        defaults |= {names[-1][option]: value for option, value in factor.defaults.items()}

    def own(options: Mapping[str, Option]) -> list[tuple[Fusion, Options]]:
        return [
            (factor, Options({option: options[given] for option, given in renamed.items()}))
            for factor, renamed in zip(factors, names, strict=True)
        ]

    def reads(**options: Option) -> tuple[probe.Read, ...]:
        return tuple(read for factor, its in own(options) for read in factor.reads(its))

    def questions(**options: Option) -> dict[str, list[probe.Read]]:
        asked: dict[str, list[probe.Read]] = {}
        for factor, its in own(options):
            for question, wanted in factor.questions(its).items():
                asked.setdefault(question, []).extend(wanted)
        return asked

    def multiplied(e: Evidence, **options: Option) -> dict[str, object]:
        found = [factor(e, its) for factor, its in own(options)]
        maps: dict[str, object] = {
            key: value for one in reversed(found) for key in RESPONSE_MAPS if (value := getattr(one, key)) is not None
        }
        response = found[0].response
        assert response is not None, "a fusion returns a response"
        for one in found[1:]:
            assert one.response is not None, "a fusion returns a response"
            response = response * share_of_peak(one.response)
        return {**maps, "response": response, "flags": tuple(flag for one in found for flag in one.flags)}

    return Fusion(name, multiplied, reads, Options(defaults), f"{__name__}.{name}", questions)
