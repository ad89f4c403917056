"""Exceptions for expected failures, whose causes a user can act on."""

from pathlib import Path

NOT_LEARNING, NOT_FINITE = "not learning", "not finite"
"""Beginnings of the reasons of failures that the configuration causes, not the machine."""


class TrialFailed(Exception):
    """A trial has failed; the message is a reason that a user can act on."""


class DiskFull(OSError):
    """A disk is full; the file was not written, and existing files are unchanged."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(f"the disk of {folder} must have room for {name}, but it is full")
        self.folder, self.name = folder, name

    def __reduce__(self) -> tuple[type["DiskFull"], tuple[Path, str]]:
        return DiskFull, (self.folder, self.name)


class ExportFailed(Exception):
    """An exported file differs from what the search measured; the message says how."""


class NotExportable(ValueError):
    """A network has an operation that the ONNX export does not know; the message names it."""


class Interrupted(Exception):
    """A training was asked to stop, and has written a checkpoint."""
