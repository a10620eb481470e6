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
    """An invalid value of a stage's field, of a fusion's option or of an evaluation's setting."""


class InvalidBand(InvalidOption):
    """A band of layers that is not (first, last), both included."""


class InvalidClasses(FsegError):
    """Class names that cannot be asked about: none, an empty one, a duplicate."""


class InvalidFusion(FsegError):
    """A fusion that cannot be registered, or that did not return a response map."""


class MapNotFinite(InvalidFusion, NotFinite):
    """A fusion returned NaN or infinity for finite activations."""


class UnknownFusion(FsegError):
    """A fusion name that is not registered."""


class ImportFailed(FsegError):
    """A user's module or file that does not exist, or whose code fails."""


class NotScoped(FsegError):
    """A stage used an activation that its own reads do not name."""


class NoMap(FsegError):
    """A map is needed that no stage has computed yet."""


class InvalidRecipe(FsegError):
    """A recipe with an unknown key, TOML that is not a recipe, or an entry point that yields something else."""


class UnknownRecipe(FsegError):
    """A recipe that is neither registered nor a file."""


class InvalidSam(FsegError):
    """A SAM that does not exist, or weights of another model."""


class InvalidPrompt(FsegError):
    """A point or a box outside the image, an empty box, or a prompt with neither."""


class CannotDraw(FsegError):
    """Labels or maps that do not fit the image."""


class InvalidDataSet(FsegError):
    """A data set that is unknown, missing or empty, or a part of it that does not exist."""


class MissingFiles(InvalidDataSet):
    """Images or labels of a data set that do not exist."""


class InvalidTruth(FsegError):
    """A ground-truth file that cannot be read, is not a label map, has unknown labels, or another size than its image."""


class RunMismatch(FsegError):
    """A folder of another evaluation, or runs to merge that are not parts of one evaluation."""
