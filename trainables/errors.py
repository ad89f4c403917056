"""The expected ways to fail, for reasons that a person can act on."""


class TrialFailed(Exception):
    """A trial that cannot give a point, for a reason a person can act on (its message)."""


class ExportFailed(Exception):
    """An exported file does not do what the search measured; the message says how."""


class Interrupted(Exception):
    """A training that was asked to leave, and has kept where it stands."""
