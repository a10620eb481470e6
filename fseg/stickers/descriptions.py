"""What is true of a sticker in a scene: its size, its place, and its neighbour; and whether a sentence says so."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from fseg.stickers.scenes import Scene, Thing
from fseg.worlds.places import position_phrase, size_word

_SHOWN = 0.01  # a neighbour covers at least this share of the image
_BORDER = 1.25  # a size is judged with the area up to this factor larger or smaller
_SHIFT = 0.04  # a place is judged with the centre up to this share of the image elsewhere
_STEEP = 0.5  # a relation holds if at least this share of the distance (a cosine) lies along its direction
_PLURAL = frozenset({"scissors"})

DIRECTIONS: dict[str, tuple[int, int]] = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Relation -> the direction in which a thing lies from its neighbour: right and down are positive."""

_SENTENCE = re.compile(
    r"It is (?P<size>\w+), (?P<place>(?:on|at|in) the [a-z ]+?)(?:, (?P<relation>"
    + "|".join(DIRECTIONS)
    + r") (?:an? )?(?P<neighbour>[a-z ]+))?\."
)


@dataclass(frozen=True)
class Truth:
    """Which parts of a description are true.

    Attributes:
        size, place: whether these are true; borders between two words are judged leniently.
        neighbour: whether the named class lies there; without one, whether there is nothing to name.
    """

    size: bool
    place: bool
    neighbour: bool

    @property
    def all(self) -> bool:
        """Whether the whole description is true."""
        return self.size and self.place and self.neighbour


def with_article(name: str) -> str:
    """The name with "a" or "an"; a plural has none.

    >>> with_article("umbrella"), with_article("dog"), with_article("scissors")
    ('an umbrella', 'a dog', 'scissors')
    """
    return name if name in _PLURAL else f"an {name}" if name[0] in "aeiou" else f"a {name}"


def relation(thing: Thing, other: Thing) -> str:
    """Where a thing lies from another, by their centres."""
    x, y = thing.centre[0] - other.centre[0], thing.centre[1] - other.centre[1]
    if abs(x) >= abs(y):
        return "left of" if x < 0 else "right of"
    return "above" if y < 0 else "below"


def holds(said: str, thing: Thing, other: Thing) -> bool:
    """Whether a relation is true: within 60 degrees of its direction."""
    x, y = thing.centre[0] - other.centre[0], thing.centre[1] - other.centre[1]
    across, down = DIRECTIONS[said]
    return across * x + down * y >= _STEEP * math.hypot(x, y)


def neighbour(shown: Scene, thing: Thing) -> Thing | None:
    """The nearest other sticker, by the centres, of those that cover 1 % of the image; None if there is none."""
    least = _SHOWN * shown.labels.size
    others = [other for other in shown.things if other.index != thing.index and other.area >= least]
    return min(others, key=lambda other: math.dist(thing.centre, other.centre), default=None)


def _place(shown: Scene, thing: Thing, right: float = 0.0, down: float = 0.0) -> str:
    height, width = shown.labels.shape
    x, y = thing.centre
    return position_phrase(x / width + right, y / height + down)


def describe(shown: Scene, name: str) -> str:
    """The second sentence of an answer: size, place, and neighbour of a class that is in the scene.

    Raises:
        InvalidOption: there is no such class, or it is not in the scene.

    >>> from fseg.stickers.scenes import scene
    >>> describe(scene(1, size=(240, 320)), "cat")
    'It is large, on the left, left of a pizza.'
    """
    thing = shown.thing(name)
    near = neighbour(shown, thing)
    beside = f", {relation(thing, near)} {with_article(near.name)}" if near else ""
    return f"It is {size_word(thing.area / shown.labels.size)}, {_place(shown, thing)}{beside}."


def judged(shown: Scene, name: str, text: str) -> Truth | None:
    """What of an answer's description is true; None if the answer has no such sentence.

    Args:
        name: a class that is in the scene.
        text: the whole answer.

    >>> from fseg.stickers.scenes import scene
    >>> judged(scene(1, size=(240, 320)), "cat", "yes, it contains a cat. It is small, on the left, above a pizza.")
    Truth(size=False, place=True, neighbour=False)
    """
    found = _SENTENCE.search(text)
    if found is None:
        return None
    thing = shown.thing(name)
    share = thing.area / shown.labels.size
    shifts = (-_SHIFT, 0.0, _SHIFT)
    return Truth(
        size=found["size"] in {size_word(share * factor) for factor in (1 / _BORDER, 1.0, _BORDER)},
        place=found["place"] in {_place(shown, thing, right, down) for right in shifts for down in shifts},
        neighbour=_neighbour_is_true(shown, thing, found["relation"], found["neighbour"]),
    )


def _neighbour_is_true(shown: Scene, thing: Thing, said: str | None, named: str | None) -> bool:
    if said is None or named is None:
        return neighbour(shown, thing) is None
    return named in shown.classes and named != thing.name and holds(said, thing, shown.thing(named))
