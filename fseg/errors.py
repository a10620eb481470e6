"""Our exceptions. Each message says what was asked, what is there, and what to do next."""

from __future__ import annotations

from probe.errors import NotFinite, ProbeError


class FsegError(ProbeError):
    """Base of every error that `fseg` raises on purpose."""


class InvalidOption(FsegError):
    """A field of a stage, or an option of a fusion, with a value that it does not take."""


class InvalidBand(InvalidOption):
    """A band of layers that is not (first, last), both included."""


class InvalidClasses(FsegError):
    """Classes to segment that cannot be asked for: no name, an empty name."""


class InvalidFusion(FsegError):
    """A fusion that cannot be registered, or that returned something which is not a response map."""


class MapNotFinite(InvalidFusion, NotFinite):
    """A fusion made NaN or infinity of activations that are finite."""


class UnknownFusion(FsegError):
    """A fusion that nobody has registered."""


class ImportFailed(FsegError):
    """A module or file of the user's own that is not there, or whose code fails."""


class NotScoped(FsegError):
    """A stage looked at something that its own reads do not name."""


class NoMap(FsegError):
    """A map was needed that the stages so far have not made."""


class InvalidRecipe(FsegError):
    """A recipe with an unknown key, TOML that is not a recipe, or an entry point that yields something else."""


class UnknownRecipe(FsegError):
    """A recipe that is neither registered nor a file."""


class InvalidSam(FsegError):
    """A SAM that is not there, or weights that are not a SAM's."""


class InvalidPrompt(FsegError):
    """A point or a box that SAM cannot be given: outside the image, empty, or neither of the two."""


class CannotDraw(FsegError):
    """Labels or maps that do not fit the picture that they are to be drawn on."""


class OutputError(FsegError):
    """A file or folder that cannot be written."""


class InvalidDataSet(FsegError):
    """A data set that is unknown, is not where it was looked for, or is empty; or a part of it that does not exist."""


class MissingFiles(InvalidDataSet):
    """Images or labels that the data set should have, and that are not there."""


class InvalidTruth(FsegError):
    """A file of true labels that cannot be read, is no label map, has labels that the set does not know, or another size than its image."""


class RunMismatch(FsegError):
    """An evaluation was to go on in a folder that holds another one, or runs were to be merged that are not parts of one."""


class RunLocked(FsegError):
    """Another process works in the folder of an evaluation."""


class ClusterNotFound(FsegError):
    """A Ray cluster was asked for that does not answer, or Ray is not installed."""


class WorkerDied(FsegError):
    """A worker process of an evaluation ended before its work did."""
