"""Backbones: tiles counted by hand, and how other packages bring theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from probe.backbones import Backbone, backbone_for, registered, registry
from probe.backbones.llava import Llava
from probe.backbones.shared.native_resolution import RowBreaks
from probe.backbones.shared.tiled_layout import tiled_grid, tiles_and_base
from probe.errors import LoadError


class Outside(Backbone):
    """A backbone of another package."""


NOT_A_BACKBONE = "a string"
Installed = Callable[[str, str], None]


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    """Pretend that an installed package has this entry point."""
    monkeypatch.setattr(registry, "BACKBONES", dict(registry.BACKBONES))
    registry.load_entry_points.cache_clear()

    def installed(name: str, value: str) -> None:
        monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint(name, f"{__name__}:{value}", group)])

    yield installed
    registry.load_entry_points.cache_clear()


def family(name: str, tower: str = "") -> SimpleNamespace:
    return SimpleNamespace(model_type=name, vision_config=SimpleNamespace(model_type=tower))


def test_a_tile_is_read_whole_before_the_next() -> None:
    # Two tiles side by side, 2 x 2 tokens each: the upper row of the canvas is 0 1 of the first tile and 4 5 of the second.
    grid = tiled_grid(1, 2, 2, (10, 20))
    assert grid.tokens == (0, 1, 4, 5, 2, 3, 6, 7)
    assert grid.cell_box(0, 2) == (10.0, 0.0, 15.0, 5.0)


def test_tiles_below_each_other_follow_each_other() -> None:
    assert tiled_grid(2, 1, 2, (20, 10), first=4).tokens == (4, 5, 6, 7, 8, 9, 10, 11)


def test_the_base_view_comes_where_the_family_puts_it() -> None:
    last, first = tiles_and_base(1, 2, 2, (10, 20)), tiles_and_base(1, 2, 2, (10, 20), base="first")
    assert [(grid.name, grid.tokens[0]) for grid in last.grids] == [("tiles", 0), ("base", 8)]
    assert [(grid.name, grid.tokens[0]) for grid in first.grids] == [("base", 0), ("tiles", 4)]


@pytest.mark.parametrize(("rows", "cols"), [(0, 0), (1, 1)])
def test_one_tile_has_no_base_view_beside_it(rows: int, cols: int) -> None:
    (grid,) = tiles_and_base(rows, cols, 3, (10, 20)).grids
    assert (grid.name, grid.tokens) == ("image", tuple(range(9)))


def test_a_familys_file_is_named_after_a_model_type_that_it_declares() -> None:
    origins: dict[str, set[str]] = {}
    for name, backbone in registry.BACKBONES.items():
        origins.setdefault(backbone.__module__, set()).add(name.replace("-", "_"))
    families = {module: names for module, names in origins.items() if module.startswith("probe.backbones.") and ".shared." not in module}
    assert len(families) > 20
    assert [module for module, names in families.items() if module.rpartition(".")[2] not in names] == []


def test_a_family_may_have_another_backbone_with_another_tower() -> None:
    assert type(backbone_for(family("llava", "clip_vision_model"))) is Llava
    assert type(backbone_for(family("llava", "pixtral"))) is RowBreaks


def test_a_configuration_without_a_tower_has_a_backbone() -> None:
    assert type(backbone_for(SimpleNamespace(model_type="unheard-of"))) is Backbone


def test_an_installed_package_brings_its_backbone(entry: Installed) -> None:
    entry("another", "Outside")
    assert type(backbone_for(family("another"))) is Outside
    assert "another" in registered()


@pytest.mark.filterwarnings("ignore:The entry point")
def test_a_clash_of_packages_names_both_origins(entry: Installed) -> None:
    entry("llava", "Outside")
    with pytest.raises(LoadError, match=rf"'llava' of {__name__}\.Outside clashes with that of probe\.backbones\.llava\.Llava"):
        backbone_for(family("llava"))


@pytest.mark.filterwarnings("ignore:The entry point")
def test_an_entry_point_that_is_no_backbone_is_refused(entry: Installed) -> None:
    entry("another", "NOT_A_BACKBONE")
    with pytest.raises(LoadError, match=r"The entry point another = .* yields 'a string'. It has to name a subclass of probe.Backbone"):
        backbone_for(family("another"))


@pytest.mark.filterwarnings("ignore:The entry point")
def test_an_entry_point_that_cannot_be_imported_is_named(entry: Installed) -> None:
    entry("another", "Absent")
    with pytest.raises(LoadError, match=r"of the group probe.backbones cannot be imported: .*Mend or uninstall"):
        backbone_for(family("another"))


def test_one_broken_package_does_not_keep_other_families_from_their_backbones(entry: Installed) -> None:
    entry("another", "Absent")
    with pytest.warns(UserWarning, match=r"\(package tests\).*no attribute 'Absent'.*Everything else goes on"):
        assert type(backbone_for(family("llava", "clip_vision_model"))) is Llava
    assert "llava" in registered()
    with pytest.raises(LoadError, match="no attribute 'Absent'"):
        backbone_for(family("another"))
