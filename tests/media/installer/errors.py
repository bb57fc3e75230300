"""The ways an installation ends badly, by Anaconda's names."""

from __future__ import annotations


class NonInteractiveError(Exception):
    """A question came up in cmdline mode, where none can be asked."""


class StorageError(NonInteractiveError):
    """The storage the kickstart describes cannot be used."""


class KickstartProblem(Exception):
    """The kickstart cannot be read; there is no exit handler yet."""


class ScriptError(Exception):
    """A script with --erroronfail failed: Anaconda asks, and waits for ever."""

    def __init__(self, line: int, details: str) -> None:
        super().__init__(
            f"There was an error running the kickstart script at line {line}.  This is a fatal error and "
            f"installation will be aborted.  The details of this error are:\n\n{details}"
        )


class TaskError(Exception):
    """An installation task failed in a way Anaconda does not handle: a traceback."""
