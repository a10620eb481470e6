"""The registry of activation fusions, named in recipes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TypeVar

import probe
from fseg.checks import shown
from fseg.errors import InvalidFusion, InvalidOption, UnknownFusion
from fseg.fusion_methods.declaration import Fusion, product
from fseg.fusion_methods.options import RESERVED, Option, Options
from fseg.plugins import packages

Function = TypeVar("Function", bound=Callable[..., object])

REGISTRY: dict[str, Fusion] = {}
"""All registered fusions by name."""


def fusion(
    name: str, *, reads: Callable[..., Sequence[probe.Read]], questions: Callable[..., Sequence[str]] = lambda **_: ()
) -> Callable[[Function], Function]:
    """Register a function as an activation fusion; the function itself is returned unchanged.

    Args:
        name: its name in recipes.
        reads: called with all options by keyword; returns the reads that the function uses.
        questions: called likewise; returns other questions about the image, in which the same is read: `e.of_question(question)`. There the
            only named positions are the image's, the question's and "before answer", the last token of the prompt.

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

        def reads_of_questions(**options: Option) -> dict[str, Sequence[probe.Read]]:
            return dict.fromkeys(questions(**options), reads(**options))

        REGISTRY[name] = Fusion(name, function, reads, _defaults(name, function), origin, reads_of_questions)
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
    """The fusion of that name; of names joined by "*", the product of these fusions.

    If it is not registered yet, the packages with the entry point `fseg.recipes` are imported first: they may register it.

    >>> fseg.get_fusion("D*M_A").origin
    'fseg.fusion_methods.paper.distance_in_attention'
    >>> list(fseg.get_fusion("D*lens").defaults)
    ['layers', 'alpha', 'beta', 'class_token', 'lens_layers']

    Raises:
        InvalidOption: the name is not a string.
        UnknownFusion: it is not registered; the message lists those that are.
    """
    if not isinstance(name, str):
        raise InvalidOption(f"respond.fusion={shown(name)}: takes the name of a fusion, such as {', '.join(map(repr, fusions()))}.")
    if name not in REGISTRY:
        packages().load_all()
    if name not in REGISTRY and (factors := _factors(name)):
        return product(name, [REGISTRY[factor] for factor in factors])
    if name not in REGISTRY:
        raise UnknownFusion(
            f'No fusion "{name[:100]}". Registered: {", ".join(fusions()) or "none"}; names joined by "*" are a product. One of your own is '
            f"registered when its module is imported, on the command line by --import MODULE_OR_FILE.py.{packages().failures()}"
        )
    return REGISTRY[name]


def fusions() -> tuple[str, ...]:
    """The names of all registered fusions, sorted.

    >>> fseg.fusions()
    ('D', 'D*M_A', 'M_A', 'heads', 'lens', 'relative', 'tam')
    """
    return tuple(sorted(REGISTRY))


def _factors(name: str) -> list[str] | None:
    """The registered names that a product is made of, the longest first: "D*M_A*lens" is "D*M_A" times "lens". None: it is no product."""
    if name in REGISTRY:
        return [name]
    for end in range(len(name) - 1, 0, -1):
        if name[end] == "*" and name[:end] in REGISTRY and (others := _factors(name[end + 1 :])):
            return [name[:end], *others]
    return None
