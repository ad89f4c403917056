"""The expected ways to fail, for reasons that a person can act on."""

from pathlib import Path

NOT_LEARNING, NOT_FINITE = "not learning", "not finite"
"""How the reason of a failure begins that its configuration is to blame for, and no machine."""


class TrialFailed(Exception):
    """A trial that cannot give a point, for a reason a person can act on (its message)."""


class DiskFull(OSError):
    """There is no room on a disk; what was to be written is not there, what was there still is."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(f"the disk of {folder} must have room for {name}, but it is full")
        self.folder, self.name = folder, name

    def __reduce__(self) -> tuple[type["DiskFull"], tuple[Path, str]]:
        return DiskFull, (self.folder, self.name)


class ExportFailed(Exception):
    """An exported file does not do what the search measured; the message says how."""


class Interrupted(Exception):
    """A training that was asked to leave, and has kept where it stands."""
