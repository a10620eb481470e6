"""The registry of activation fusions: functions from a class's activations to its response map, named in recipes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

import probe
from fseg.checks import LARGEST, check_bool, check_int, check_number, shown
from fseg.errors import InvalidBand, InvalidFusion, InvalidOption, MapNotFinite, UnknownFusion
from fseg.evidence import RESPONSE_MAPS, Evidence
from fseg.plugins import packages
from probe.inputs.templates import encodable

Option = bool | int | float | str | tuple["Option", ...] | None
Function = TypeVar("Function", bound=Callable[..., object])

MOST_LAYERS = 10_000
"""One more than the last layer that a band may name: no model is as deep."""

RESERVED = ("fusion", "view")
"""Keys of the respond stage beside the fusion's options."""

MOST_NESTED = 8
"""How deep an option's lists may be nested."""


class Options(Mapping[str, Option]):
    """Options of a fusion: an immutable, hashable mapping; lists become tuples.

    >>> from fseg.fusion_methods.registry import Options
    >>> Options({"layers": [7, 13], "alpha": 0.75})
    {'layers': (7, 13), 'alpha': 0.75}
    """

    __slots__ = ("_items",)

    def __init__(self, values: Mapping[str, object] = MappingProxyType({})) -> None:
        self._items = tuple((name, _frozen(name, value)) for name, value in values.items())

    def __getitem__(self, name: str) -> Option:
        return dict(self._items)[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items))

    def __repr__(self) -> str:
        return repr(dict(self._items))


def _frozen(name: str, value: object, depth: int = 0) -> Option:
    match value:
        case list() | tuple() if depth < MOST_NESTED:
            return tuple(_frozen(name, item, depth + 1) for item in value)
        case None if depth == 0:
            return None
        case bool() | float():
            return value
        case int() if abs(value) <= LARGEST:
            return value
        case str() if encodable(value):
            return value
    raise InvalidOption(
        f"{name}={shown(value)}: a recipe can hold True or False, a number of at most 64 bits, a text, or a list of these, "
        f"in at most {MOST_NESTED} lists."
    )


@dataclass(frozen=True)
class Fusion:
    """A registered fusion.

    Attributes:
        name: its name in recipes.
        function: called with the evidence and the options; returns the response map, or a mapping of maps that contains it.
        reads_function: called with the options; returns the reads that the function uses.
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
            {name: _checked_option(name, given[name], default) if name in given else default for name, default in self.defaults.items()}
        )

    def reads(self, options: Mapping[str, Option]) -> tuple[probe.Read, ...]:
        """The activations that the fusion needs with these options; known before any forward."""
        return tuple(self.reads_function(**options))

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


def _checked_option(name: str, value: Option, default: Option) -> Option:
    match default:
        case bool():
            check_bool(name, value)
        case int():
            check_int(name, value)
        case float():
            check_number(name, value)
            return float(value)  # type: ignore[arg-type]
        case str() | tuple():
            if not isinstance(value, type(default)):
                wanted = "a text" if isinstance(default, str) else "a list"
                raise InvalidOption(f"{name}={shown(value)}: takes {wanted}, such as its default {default!r}.")
    return value


REGISTRY: dict[str, Fusion] = {}
"""All registered fusions by name."""


def fusion(name: str, *, reads: Callable[..., Sequence[probe.Read]]) -> Callable[[Function], Function]:
    """Register a function as an activation fusion; the function itself is returned unchanged.

    Args:
        name: its name in recipes.
        reads: called with all options by keyword; returns the reads that the function uses.

    The function takes the evidence of one class, and options by keyword, each with a default. The options are keys of recipes, of their
    TOML and of sweeps. It returns the response map (row, col), or a mapping with the keys "response", any other of `RESPONSE_MAPS`, and
    "flags", a tuple of words. A second definition of the same function replaces the first, as when a notebook cell runs again.

    >>> @fseg.fusion("sharp", reads=lambda layers, **_: [probe.Hidden(layers=fseg.band(layers), at=("image", "class"))])
    ... def sharp(e, *, layers=(7, 13), power=2.0):
    ...     cosine = torch.cosine_similarity(e.hidden("image"), e.hidden("class")[:, -1:], dim=-1).mean(0)
    ...     return e.fold(cosine.clamp(min=0) ** power)
    >>> fseg.get_recipe("glyphs").with_({"respond.fusion": "sharp", "respond.power": 3}).respond.options
    {'layers': (3, 4), 'power': 3.0}
    >>> del REGISTRY["sharp"]  # for this example only

    Raises:
        InvalidFusion: another function has that name, or the function's parameters are not as described.
    """

    def register(function: Function) -> Function:
        origin = f"{function.__module__}.{function.__qualname__}"
        known = REGISTRY.get(name)
        if known is not None and known.origin != origin:
            raise InvalidFusion(f'The fusion "{name}" is {known.origin} already. Give {origin} another name.')
        REGISTRY[name] = Fusion(name, function, reads, _defaults(name, function), origin)
        return function

    return register


def _defaults(name: str, function: Callable[..., object]) -> Options:
    parameters = tuple(inspect.signature(function).parameters.values())
    wrong = [p.name for p in parameters[1:] if p.kind is not p.KEYWORD_ONLY or p.default is p.empty or p.name in RESERVED]
    if not parameters or parameters[0].kind not in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) or wrong:
        raise InvalidFusion(
            f'The fusion "{name}" takes the evidence, then options by keyword, each with a default and none of them called {" or ".join(RESERVED)}: '
            f"def {function.__name__}(e, *, layers=(7, 13)). Not so: {', '.join(wrong) or 'the first parameter'}."
        )
    return Options({p.name: p.default for p in parameters[1:]})


def get_fusion(name: object) -> Fusion:
    """The fusion of that name.

    If it is not registered yet, the packages with the entry point `fseg.recipes` are imported first: they may register it.

    >>> fseg.get_fusion("D*M_A").origin
    'fseg.fusion_methods.paper.distance_in_attention'

    Raises:
        InvalidOption: the name is not a string.
        UnknownFusion: it is not registered; the message lists those that are.
    """
    if not isinstance(name, str):
        raise InvalidOption(f"respond.fusion={shown(name)}: takes the name of a fusion, such as {', '.join(map(repr, fusions()))}.")
    if name not in REGISTRY:
        packages().load_all()
    if name not in REGISTRY:
        raise UnknownFusion(
            f'No fusion "{name[:100]}". Registered: {", ".join(fusions()) or "none"}. One of your own is registered when its module is '
            f"imported, on the command line by --import MODULE_OR_FILE.py.{packages().failures()}"
        )
    return REGISTRY[name]


def fusions() -> tuple[str, ...]:
    """The names of all registered fusions, sorted.

    >>> fseg.fusions()
    ('D', 'D*M_A', 'M_A')
    """
    return tuple(sorted(REGISTRY))


def band(layers: Sequence[int]) -> range:
    """The layers of a band (first, last), both included: (7, 13) is the paper's l_s = 7 to l_e = 13.

    >>> fseg.band((7, 13))
    range(7, 14)

    Raises:
        InvalidBand: not two whole numbers with 0 <= first <= last < 10,000; or shares, which are layers only in a model.
    """
    if are_shares(layers):
        raise InvalidBand(
            f"layers={shown(layers)}: shares are layers only in a model of known depth. A Segmenter knows it; recipe.at_depth(32) gives the "
            "recipe for 32 layers."
        )
    match layers:
        case (int(first), int(last)) if 0 <= first <= last < MOST_LAYERS and not isinstance(first, bool) and not isinstance(last, bool):
            return range(first, last + 1)
    raise InvalidBand(
        f"layers={shown(layers)}: a band is (first, last), both included, with 0 <= first <= last < {MOST_LAYERS}, such as (7, 13); or in "
        "shares of the model's depth, from 0.0 to 1.0, such as (0.22, 0.41)."
    )


def are_shares(layers: object) -> bool:
    """Whether a band is given in shares of the depth: two numbers in order from 0.0 to 1.0, at least one of them not whole by its type.

    >>> from fseg.fusion_methods.registry import are_shares
    >>> are_shares((0.22, 0.41)), are_shares((0, 1)), are_shares((0.0, 1.0))
    (True, False, True)
    """
    match layers:
        case (int() | float() as first, int() | float() as last) if isinstance(first, float) or isinstance(last, float):
            return not isinstance(first, bool) and not isinstance(last, bool) and 0 <= first <= last <= 1
    return False


def band_at_depth(shares: tuple[float, float], depth: int) -> tuple[int, int]:
    """A band in shares of the depth as layers: (0.22, 0.41) of 32 layers are the paper's (7, 13).

    >>> from fseg.fusion_methods.registry import band_at_depth
    >>> band_at_depth((0.22, 0.41), 32), band_at_depth((0.22, 0.41), 40)
    ((7, 13), (9, 16))
    """
    first, last = shares
    return round(first * depth), round(last * depth)
