"""Describes why a process of Ray died, by the type of Ray's exception."""

from pathlib import Path

from ray import cloudpickle
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayTaskError
from ray.tune.experiment import Trial

from trainables.core.command_line import first_line

UNKNOWN = "killed, out of memory, or lost with its node"


def failure_reason(trial: Trial) -> str:
    """A one-line description of why the last process of a trial of Tune died."""
    path = trial.pickled_error_file
    if path is None or not Path(path).is_file():
        return UNKNOWN
    return describe_worker_failure(cloudpickle.loads(Path(path).read_bytes()))


def describe_worker_failure(error: BaseException) -> str:
    """A one-line description of Ray's error for a process that died."""
    match error:
        case RayTaskError():
            return f"{type(error.cause).__name__}: {first_line(error.cause)}"
        case OutOfMemoryError():
            return f"out of memory: {first_line(error)}"
        case NodeDiedError():
            return f"lost with its node: {first_line(error)}"
        case ActorDiedError() if error.preempted:
            return "its node was taken away"
        case ActorDiedError():
            return cause_of_death(error)
        case _:
            return first_line(error)


def cause_of_death(error: ActorDiedError) -> str:
    """The part of Ray's message after the general sentence and the fields of the actor."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line[0].isspace()]
    causes = [line for line in lines if line != ActorDiedError.BASE_ERROR_MSG]
    return (causes or lines)[0]
