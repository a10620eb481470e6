"""Text-Visual Response (paper, section 3.3): one response map a class, from its hidden states and attention, by a fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from attrs import evolve, field, frozen

import probe
from fseg.checks import check_choice, checked
from fseg.errors import NoMap
from fseg.evidence import Evidence
from fseg.fusion_methods.declaration import Fusion
from fseg.fusion_methods.options import Option, Options, are_shares, band_at_depth
from fseg.fusion_methods.registry import get_fusion
from probe.tokens.layout import Grid

VIEWS = ("auto", "base", "tiles", "both")

_ANY_DEPTH = 100


@frozen
class Respond:
    """The respond stage (TVR): a fusion by name, with its options.

    Attributes:
        fusion: a registered name: "D", "M_A" and "D*M_A" are the rows of Table 5; or names joined by "*", whose responses are multiplied.
        options: the fusion's options; those left out take their defaults. A band of layers may be given in shares of the model's depth, such
            as (0.22, 0.41).
        view: of an image in tiles, the view whose tokens respond: "base", the whole image; "tiles"; or "both", averaged on the
            cells of the tiles. "auto": the base view. An image that is one view has only that.

    Raises:
        UnknownFusion, InvalidOption, InvalidBand: on construction, before any forward.

    >>> Respond("D", {"layers": (5, 9)})
    Respond(fusion='D', options={'layers': (5, 9), 'alpha': 0.75, 'beta': 0.19, 'class_token': 'last'}, view='auto')
    """

    fusion: str = "D*M_A"
    options: Mapping[str, Option] = field(factory=Options)

    view: str = field(default="auto", validator=checked(check_choice, VIEWS))

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "options", self._fusion.options(self.options))
        if self._shares():
            self.at_depth(_ANY_DEPTH)  # shares are checked as layers
        else:
            self.reads()  # a fusion checks the values of its options here

    def at_depth(self, depth: int) -> Respond:
        """The stage for a model of so many decoder layers: bands in shares of the depth become layers.

        >>> Respond("D", {"layers": (0.25, 0.5)}).at_depth(8).options["layers"]
        (2, 4)
        """
        return evolve(self, options={**self.options, **{name: band_at_depth(band, depth) for name, band in self._shares().items()}})

    def _shares(self) -> dict[str, tuple[float, float]]:
        """The options that are a band in shares of the depth, where the fusion's default is a band of layers."""
        return {
            name: value  # type: ignore[misc]  # are_shares has seen two numbers
            for name, value in self.options.items()
            if are_shares(value) and _is_band(self._fusion.defaults[name])
        }

    @property
    def _fusion(self) -> Fusion:
        return get_fusion(self.fusion)

    def reads(self) -> list[probe.Read]:
        """The activations that this stage needs."""
        return list(self._fusion.reads(self.options))

    def questions(self) -> dict[str, tuple[probe.Read, ...]]:
        """The other questions about the image that this stage needs, and what it reads in each."""
        return self._fusion.questions(self.options)

    def __call__(self, e: Evidence) -> Evidence:
        """The evidence with its response map (D_f, Eq. 8), and the maps from which the fusion computed it."""
        return self._fusion(in_view(e, self.view), self.options)


def views_of(layout: probe.ImageLayout | None) -> tuple[probe.Grid, ...]:
    """The views of an image, each without the cells that show padding alone."""
    assert layout is not None, "a family with a grid lays out every image"
    return tuple(grid.within_image() for grid in layout.grids if grid.tokens) or (layout.grid(),)


def chosen_views(offered: Sequence[Grid], view: str) -> tuple[Grid, ...]:
    """The views of an image that respond, of those that it has.

    Args:
        view: `Respond.view`.

    >>> base, tiles = probe.Grid.whole(2, 2, (8, 8), name="base"), probe.Grid.whole(4, 4, (8, 8), name="tiles", first=4)
    >>> [len(chosen_views((base, tiles), view)) for view in ("auto", "tiles", "both")]
    [1, 1, 2]
    """
    name = "base" if view == "auto" else view
    return tuple(grid for grid in offered if len(offered) == 1 or grid.name == name) or tuple(offered)


def grid_of_maps(views: Sequence[Grid]) -> Grid:
    """The grid of the maps of these views: of both, the tiles'."""
    return next((grid for grid in views if grid.name != "base"), views[0])


def in_view(e: Evidence, view: str) -> Evidence:
    """The evidence with the views that respond, and the cells of its maps.

    Args:
        view: `Respond.view`.
    """
    views = chosen_views(e.views or (e.grid,), view)
    return replace(e, views=views, grid=grid_of_maps(views))


def _is_band(default: Option) -> bool:
    return isinstance(default, tuple) and (are_shares(default) or [type(number) for number in default] == [int, int])


def best_synonym(synonyms: Sequence[Evidence]) -> Evidence:
    """The evidence with the largest peak of D~ among several names of one class.

    Where a fusion returned no D~, its response is compared instead.

    Raises:
        NoMap: one of them has no response yet.
    """
    return max(synonyms, key=_peak)


def best_name(synonyms: Sequence[Evidence]) -> Evidence:
    """The evidence of one class: of the best name that got a yes, or else of the first name."""
    present = [e for e in synonyms if e.present]
    return best_synonym(present) if present else synonyms[0]


def _peak(e: Evidence) -> float:
    if e.relevance is None:
        raise NoMap(f'"{e.asked_as}" has no response map to compare synonyms by: run the respond stage on it first.')
    return float(e.relevance.max())
