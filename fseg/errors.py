"""Our exceptions. Each message says what was asked, what is there, and what to do next."""

from __future__ import annotations

from probe.errors import ClusterNotFound as ClusterNotFound
from probe.errors import NotFinite, ProbeError
from probe.errors import OutputError as OutputError
from probe.errors import RunLocked as RunLocked
from probe.errors import WorkerDied as WorkerDied


class FsegError(ProbeError):
    """Base of every error that `fseg` raises on purpose.

    >>> try:
    ...     fseg.get_recipe("glyphs").with_({"prompt.kind": "dot"})
    ... except fseg.FsegError as error:
    ...     print(error)
    prompt.kind='dot': takes 'point', 'box', 'both'.
    """


class InvalidOption(FsegError):
    """An invalid value of a stage's field, of a fusion's option or of an evaluation's setting.

    Cure: the message lists the values that the option takes.
    """


class InvalidBand(InvalidOption):
    """A band of layers that is not (first, last), both included.

    Cure: give two layers, first and last, or two shares of the depth such as (0.22, 0.41).
    """


class InvalidClasses(FsegError):
    """Class names that cannot be asked about: none, an empty one, a duplicate.

    Cure: give each class once, as a text that is not empty.
    """


class InvalidFusion(FsegError):
    """A fusion that cannot be registered, or that did not return a response map.

    Cure: return one tensor of the grid's shape, (row, col), and give each option a default.
    """


class MapNotFinite(InvalidFusion, NotFinite):
    """A fusion returned NaN or infinity for finite activations.

    Cure: look for a division by zero or a logarithm of zero in the fusion.
    """


class UnknownFusion(FsegError):
    """A fusion name that is not registered.

    Cure: `fseg.fusions()` lists the names; `--import FILE.py` makes one of yours known.
    """


class ImportFailed(FsegError):
    """A user's module or file that does not exist, or whose code fails.

    Cure: run the file by itself with `python FILE.py` and mend what it reports.
    """


class NotScoped(FsegError):
    """A stage used an activation that its own reads do not name.

    Cure: add the read to the fusion's `reads`.
    """


class NoMap(FsegError):
    """A map is needed that no stage has computed yet.

    Cure: run the stage that computes the map first.
    """


class InvalidRecipe(FsegError):
    """A recipe with an unknown key, TOML that is not a recipe, or an entry point that yields something else.

    Cure: `recipe.keys()` lists the keys, `recipe.to_toml()` is the whole recipe as TOML.
    """


class UnknownRecipe(FsegError):
    """A recipe that is neither registered nor a file.

    Cure: `fseg recipes` lists the names; a file needs its path.
    """


class InvalidSam(FsegError):
    """A SAM that does not exist, or weights of another model.

    Cure: give a checkpoint of SAM, SAM 2 or SAM 3's tracker: the message says what the file holds.
    """


class InvalidPrompt(FsegError):
    """A point or a box outside the image, an empty box, or a prompt with neither.

    Cure: points are (x, y) and boxes (x0, y0, x1, y1) in pixels of the image.
    """


class CannotDraw(FsegError):
    """Labels or maps that do not fit the image.

    Cure: give labels of the image's (height, width), from 0 to the number of classes, or 255.
    """


class InvalidDataSet(FsegError):
    """A data set that is unknown, missing or empty, or a part of it that does not exist.

    Cure: `fseg datasets` lists the names and, with `--root`, what is found there.
    """


class MissingFiles(InvalidDataSet):
    """Images or labels of a data set that do not exist.

    Cure: complete the download; the message names the first files that are missing.
    """


class InvalidTruth(FsegError):
    """A ground-truth file that cannot be read, is not a label map, has unknown labels, or another size than its image.

    Cure: take the label file as the set distributes it: a single channel with a value for each class.
    """


class RunMismatch(FsegError):
    """A folder of another evaluation, or runs to merge that are not parts of one evaluation.

    Cure: give the same models, recipe and data as before, or another folder with `--out`.
    """
