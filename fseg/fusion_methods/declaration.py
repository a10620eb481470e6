"""A fusion: a function from a class's activations to its response map, the reads that it uses, and its options; and products of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import probe
from fseg.checks import shown
from fseg.errors import InvalidFusion, InvalidOption, MapNotFinite
from fseg.evidence import RESPONSE_MAPS, Evidence
from fseg.fusion_methods.maps import share_of_peak
from fseg.fusion_methods.options import Option, Options, checked_option


@dataclass(frozen=True)
class Fusion:
    """A registered fusion.

    Attributes:
        name: its name in recipes.
        function: called with the evidence and the options; returns the response map, or a mapping of maps that contains it.
        reads_function: called with the options; returns the reads that the function uses.
        questions_function: called with the options; returns other questions about the image, and what is read in each.
        defaults: its options with their default values.
        origin: the module and qualified name of the function.

    >>> fseg.get_fusion("D").defaults
    {'layers': (7, 13), 'alpha': 0.75, 'beta': 0.19, 'class_token': 'last'}
    """

    name: str
    function: Callable[..., object]
    reads_function: Callable[..., Sequence[probe.Read]]
    defaults: Options
    origin: str
    questions_function: Callable[..., Mapping[str, Sequence[probe.Read]]] = lambda **_: {}

    def options(self, values: Mapping[str, object]) -> Options:
        """All options of this fusion: the values given, and defaults for the others.

        Raises:
            InvalidOption: an option that the fusion does not have, or a value of another kind than its default.
        """
        if not isinstance(values, Mapping):
            raise InvalidOption(f'The options of fusion "{self.name}" are a mapping, such as {dict(self.defaults)}, not {shown(values)}.')
        unknown = [name for name in values if name not in self.defaults]
        if unknown:
            raise InvalidOption(
                f'Fusion "{self.name}" has no option {shown(unknown[0])}. Its options: {", ".join(self.defaults) or "none"}.'
            )
        given = Options(values)
        return Options(
            {name: checked_option(name, given[name], default) if name in given else default for name, default in self.defaults.items()}
        )

    def reads(self, options: Mapping[str, Option]) -> tuple[probe.Read, ...]:
        """The activations that the fusion needs with these options; known before any forward."""
        return tuple(self.reads_function(**options))

    def questions(self, options: Mapping[str, Option]) -> dict[str, tuple[probe.Read, ...]]:
        """The other questions about the image that the fusion needs, and what it reads in each."""
        return {question: tuple(reads) for question, reads in self.questions_function(**options).items()}

    def __call__(self, e: Evidence, options: Mapping[str, Option]) -> Evidence:
        """The evidence with the response map, and with any other maps that the function returned.

        Raises:
            InvalidFusion: the function returned no response, an unknown map, or a map that is not of the grid's shape.
            MapNotFinite: a map holds NaN or infinity.
        """
        returned = self.function(e.scoped(self.reads(options)), **options)
        maps: dict[str, Any] = dict(returned) if isinstance(returned, Mapping) else {"response": returned}
        flags = maps.pop("flags", ())
        unknown = [name for name in maps if name not in RESPONSE_MAPS]
        if unknown or maps.get("response") is None:
            raise InvalidFusion(
                f'Fusion "{self.name}" returned {", ".join(map(repr, maps)) or "nothing"}. It returns a (row, col) tensor, or a mapping '
                f'that holds "response" and may hold {", ".join(RESPONSE_MAPS[:-1])} and flags.'
            )
        tensors = {name: self._checked(name, value, e) for name, value in maps.items() if value is not None}
        return replace(e, **tensors).flagged(*flags)  # type: ignore[arg-type]  # the names of maps, each a field that takes a tensor

    def _checked(self, name: str, value: object, e: Evidence) -> Tensor:
        if not isinstance(value, Tensor) or value.shape != e.grid.shape:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InvalidFusion(
                f'Fusion "{self.name}" returned {got} as {name} of {e.name}; the image has {e.grid.rows} x {e.grid.cols} cells. '
                "e.fold(values) makes a map of one value for each image token."
            )
        value = value.detach().cpu().float()
        if not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).sum())
            raise MapNotFinite(
                f'Fusion "{self.name}" returned {bad} of {value.numel()} cells that are not finite in {name} of {e.name}. '
                "Look for a division by zero, or for an empty span."
            )
        return value.bool() if name == "attention_mask" else value


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
