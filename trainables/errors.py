"""The one expected way for a trial to fail."""


class TrialFailed(Exception):
    """A trial that cannot give a point, for a reason a person can act on (its message)."""
