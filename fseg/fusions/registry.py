"""Activation fusions: how what was read of the model becomes one response map a class. Registered by a decorator, named in recipes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

import probe
from fseg.checks import LARGEST, flag, number, shown, whole
from fseg.errors import InvalidBand, InvalidFusion, InvalidOption, MapNotFinite, UnknownFusion
from fseg.evidence import Evidence
from fseg.plugins import packages
from probe.inputs.templates import encodable

Option = bool | int | float | str | tuple["Option", ...] | None
Function = TypeVar("Function", bound=Callable[..., object])

MOST_LAYERS = 10_000
"""No model is as deep; a band beyond it is a slip."""

MOST_NESTED = 8
"""Lists in lists of an option."""

RESPONSE_MAPS = ("raw_distance", "distance", "attention", "attention_mask", "response")
"""The maps that a fusion may leave behind; "response" is the one that it must."""


class Options(Mapping[str, Option]):
    """Options of a fusion, immutable, comparable and hashable; a list is kept as a tuple."""

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
        name: what recipes call it.
        function: evidence and options in; a response, or a mapping of maps with a response in it, out.
        needs: options in; the reads that the function looks at, out.
        defaults: its options with their default values.
        origin: the module and qualified name of the function.
    """

    name: str
    function: Callable[..., object]
    needs: Callable[..., Sequence[probe.Read]]
    defaults: Options
    origin: str

    def options(self, values: Mapping[str, object]) -> Options:
        """All options of this fusion: these values, and the defaults for the rest.

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
        return Options({name: _like(name, given[name], default) if name in given else default for name, default in self.defaults.items()})

    def reads(self, options: Mapping[str, Option]) -> tuple[probe.Read, ...]:
        """What the model has to be read for under these options, known before any forward."""
        return tuple(self.needs(**options))

    def __call__(self, e: Evidence, options: Mapping[str, Option]) -> Evidence:
        """The evidence with the response, and with the maps on the way to it that the function chose to leave.

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
        made: dict[str, Any] = {name: self._checked(name, value, e) for name, value in maps.items() if value is not None}
        return replace(e, **made).flagged(*flags)

    def _checked(self, name: str, value: object, e: Evidence) -> Tensor:
        if not isinstance(value, Tensor) or value.shape != e.grid:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InvalidFusion(
                f'Fusion "{self.name}" returned {got} as {name} of {e.name}; the image has {e.grid[0]} x {e.grid[1]} cells. '
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


def _like(name: str, value: Option, default: Option) -> Option:
    match default:
        case bool():
            flag(name, value)
        case int():
            whole(name, value)
        case float():
            number(name, value)
            return float(value)  # type: ignore[arg-type]
        case str() | tuple():
            if not isinstance(value, type(default)):
                wanted = "a text" if isinstance(default, str) else "a list"
                raise InvalidOption(f"{name}={shown(value)}: takes {wanted}, such as its default {default!r}.")
    return value


_fusions: dict[str, Fusion] = {}


def fusion(name: str, *, reads: Callable[..., Sequence[probe.Read]]) -> Callable[[Function], Function]:
    """Register a function as an activation fusion. The function itself stays as it is.

    The function takes the evidence of one class, and options by keyword, each with a default: these are its keys in TOML and in sweeps,
    and `reads` receives them all. It returns the response map (row, col), or a mapping that holds it as "response" beside others of
    `RESPONSE_MAPS` and beside "flags", a tuple of words. Defining the same function again, as when a notebook cell is run again,
    replaces it.

        @fseg.fusion("sharp", reads=lambda layers, **_: [probe.Hidden(layers=fseg.band(layers), at=("image", "class"))])
        def sharp(e, *, layers=(7, 13), power=2.0):
            cosine = torch.cosine_similarity(e.hidden("image"), e.hidden("class")[:, -1:], dim=-1).mean(0)
            return e.fold(cosine.clamp(min=0) ** power)

    Raises:
        InvalidFusion: another function has that name, or the function's parameters are not as above.
    """

    def register(function: Function) -> Function:
        origin = f"{function.__module__}.{function.__qualname__}"
        known = _fusions.get(name)
        if known is not None and known.origin != origin:
            raise InvalidFusion(f'The fusion "{name}" is {known.origin} already. Give {origin} another name.')
        _fusions[name] = Fusion(name, function, reads, _defaults(name, function), origin)
        return function

    return register


def _defaults(name: str, function: Callable[..., object]) -> Options:
    parameters = tuple(inspect.signature(function).parameters.values())
    wrong = [p.name for p in parameters[1:] if p.kind is not p.KEYWORD_ONLY or p.default is p.empty or p.name == "fusion"]
    if not parameters or parameters[0].kind not in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) or wrong:
        raise InvalidFusion(
            f'The fusion "{name}" takes the evidence, then options by keyword, each with a default and none of them called fusion: '
            f"def {function.__name__}(e, *, layers=(7, 13)). Not so: {', '.join(wrong) or 'the first parameter'}."
        )
    return Options({p.name: p.default for p in parameters[1:]})


def get_fusion(name: str) -> Fusion:
    """The fusion of that name. Packages that bring recipes are imported where it is not known yet: they may bring it too.

    Raises:
        InvalidOption: the name is no text.
        UnknownFusion: nobody registered it; the message lists those that are.
    """
    if not isinstance(name, str):
        raise InvalidOption(f"respond.fusion={shown(name)}: takes the name of a fusion, such as {', '.join(map(repr, fusions()))}.")
    if name not in _fusions:
        packages().load_all()
    if name not in _fusions:
        raise UnknownFusion(
            f'No fusion "{name[:100]}". Registered: {", ".join(fusions()) or "none"}. One of your own is registered when its module is '
            f"imported, on the command line by --import MODULE_OR_FILE.py.{packages().failures()}"
        )
    return _fusions[name]


def fusions() -> tuple[str, ...]:
    """The names of all registered fusions."""
    return tuple(sorted(_fusions))


def band(layers: Sequence[int]) -> range:
    """A band (first, last) of layers, both included, as a range: (7, 13) is the paper's l_s = 7 to l_e = 13.

    Raises:
        InvalidBand: not two whole numbers with 0 <= first <= last < 10,000.
    """
    match layers:
        case (int(first), int(last)) if 0 <= first <= last < MOST_LAYERS and not isinstance(first, bool) and not isinstance(last, bool):
            return range(first, last + 1)
    raise InvalidBand(
        f"layers={shown(layers)}: a band is (first, last), both included, with 0 <= first <= last < {MOST_LAYERS}, such as (7, 13)."
    )
