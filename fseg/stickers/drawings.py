"""The thirty classes, the drawings that show each, and the artists who drew them."""

from __future__ import annotations

from dataclasses import dataclass

DRAWINGS: dict[str, tuple[str, ...]] = {
    "airplane": ("airplane", "small-airplane", "airplane-departure", "airplane-arrival"),
    "bicycle": ("bicycle",),
    "bird": ("bird", "duck", "eagle", "dove", "parrot", "owl"),
    "boat": ("sailboat", "speedboat", "motor-boat", "ferry", "passenger-ship", "ship"),
    "bottle": ("bottle-with-popping-cork", "baby-bottle", "lotion-bottle"),
    "bus": ("bus", "oncoming-bus", "trolleybus"),
    "car": ("automobile", "oncoming-automobile", "taxi", "oncoming-taxi", "police-car", "sport-utility-vehicle"),
    "cat": ("cat", "cat-face", "black-cat", "grinning-cat", "pouting-cat"),
    "chair": ("chair", "seat"),
    "cow": ("cow", "cow-face", "ox"),
    "dog": ("dog", "dog-face", "guide-dog", "service-dog", "poodle"),
    "horse": ("horse", "horse-face"),
    "motorbike": ("motorcycle", "motor-scooter"),
    "person": ("man", "woman", "boy", "girl", "person", "old-man", "old-woman", "person-walking", "person-standing", "person-running"),
    "potted plant": ("potted-plant",),
    "sheep": ("ewe", "ram"),
    "sofa": ("couch-and-lamp",),
    "train": ("locomotive", "train", "high-speed-train", "bullet-train", "metro", "tram", "light-rail", "railway-car", "tram-car"),
    "television": ("television", "desktop-computer"),
    "umbrella": ("umbrella", "closed-umbrella", "umbrella-with-rain-drops", "umbrella-on-ground"),
    "cup": ("hot-beverage", "teacup-without-handle", "cup-with-straw"),
    "clock": ("mantelpiece-clock", "alarm-clock", "one-oclock", "seven-thirty", "ten-oclock"),
    "elephant": ("elephant",),
    "pizza": ("pizza",),
    "banana": ("banana",),
    "apple": ("red-apple", "green-apple"),
    "guitar": ("guitar",),
    "teddy bear": ("teddy-bear",),
    "book": ("closed-book", "open-book", "blue-book", "green-book", "orange-book", "notebook"),
    "scissors": ("scissors",),
}
"""Class name -> Unicode names of its drawings, in the order of the cells of an artist's sheet. VOC's names come first."""

CLASSES: tuple[str, ...] = tuple(DRAWINGS)
"""The thirty class names."""

SYNONYMS: dict[str, str] = {
    "aeroplane": "airplane",
    "motorcycle": "motorbike",
    "pottedplant": "potted plant",
    "tv": "television",
    "tvmonitor": "television",
    "couch": "sofa",
}
"""Other spellings -> class name. VOC's are among them."""

CELLS: tuple[tuple[str, str], ...] = tuple((name, drawing) for name, drawings in DRAWINGS.items() for drawing in drawings)
"""(class, drawing) of each cell of a sheet."""


@dataclass(frozen=True)
class Artist:
    """One set of drawings.

    Attributes:
        package: its package in npm's registry.
        licence: SPDX name.
        shipped: whether this package carries the sprites.
        held_out: whether the artist is kept for tests: nothing is trained or chosen on such an artist.
    """

    package: str
    licence: str
    shipped: bool = False
    held_out: bool = False


ARTISTS: dict[str, Artist] = {
    "noto": Artist("@iconify-json/noto@1.2.9", "Apache-2.0", shipped=True),
    "noto-v1": Artist("@iconify-json/noto-v1@1.2.5", "Apache-2.0", shipped=True),
    "fluent-emoji": Artist("@iconify-json/fluent-emoji@1.2.7", "MIT", shipped=True),
    "fluent-emoji-flat": Artist("@iconify-json/fluent-emoji-flat@1.2.6", "MIT", shipped=True),
    "fxemoji": Artist("@iconify-json/fxemoji@1.2.2", "Apache-2.0", shipped=True),
    "emojione": Artist("@iconify-json/emojione@1.2.3", "CC-BY-4.0"),
    "twemoji": Artist("@iconify-json/twemoji@1.2.5", "CC-BY-4.0", held_out=True),
}
"""The artists by name. No other set may be added without looking at its licence: share-alike would reach the weights."""

TRAINING = tuple(name for name, artist in ARTISTS.items() if not artist.held_out)
"""The artists of the training."""


def canonical(name: str) -> str | None:
    """The class that a name means, by its own name or a synonym; None if this world has no such class.

    >>> canonical("tvmonitor"), canonical("cat"), canonical("zebra")
    ('television', 'cat', None)
    """
    wanted = " ".join(name.split()).casefold()
    return wanted if wanted in DRAWINGS else SYNONYMS.get(wanted)
