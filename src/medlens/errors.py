"""The one tree of errors. Each says, in one line, what was got, what was expected, and what to do."""

from __future__ import annotations

LONGEST = 2000  # letters of a line: what a hostile file says may have millions


class MedlensError(Exception):
    """Anything medlens refuses or cannot do. On the command line: one line on stderr, exit code 2.

    What files and other libraries say may stand in it: as text it is one line, and what would steer a terminal is written out.
    """

    def __str__(self) -> str:
        said = super().__str__()
        said = said if len(said) <= LONGEST else f"{said[: LONGEST // 2]}…{said[-LONGEST // 2 :]}"
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in said)


class BadInput(MedlensError, ValueError):
    """An argument, option or plan that makes no sense."""


class BadData(MedlensError):
    """A data set that cannot be read: the message names the file, and the line or sample."""


class BadImage(BadData):
    """One image that is missing, corrupt, or cannot be shown to a model without a decision that changes the picture."""


class BadModel(MedlensError):
    """A checkpoint that cannot be loaded, or a model that failed its self-test."""


class NotFinite(MedlensError):
    """A NaN or infinity in a hidden state: the message names layer, sample and token. Nothing is averaged over it."""


class BadRun(MedlensError):
    """A run folder that is missing, damaged, or belongs to another study."""


class OldRun(BadRun):
    """A table of a run has other columns than this medlens writes."""


class CannotWrite(MedlensError):
    """A file that could not be written (full disk, read-only folder). What was begun has been removed."""


class OutOfMemory(MedlensError):
    """There was less memory than the work needed. What is done is kept."""


class MedlensWarning(UserWarning):
    """What was decided in the user's place, and can be decided otherwise. On the command line: one line on stderr."""


class WorkerLost(MedlensError):
    """A process or machine that shared the work died more often than it is worth trying again, or could not be reached."""
