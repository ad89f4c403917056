"""Reasons by the type of Ray's errors, of those that are not provoked easily."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray import cloudpickle
from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    LocalRayletDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayError,
)

from search.execution.worker_failure import UNKNOWN, describe_worker_failure, failure_reason

PREEMPTED = ActorDiedErrorContext(
    class_name="StudentTrainable",
    actor_id=bytes(16),
    pid=7,
    error_message="of the node",
    node_death_info=NodeDeathInfo(reason=NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED),
)
LOST = ActorDiedErrorContext(
    class_name="StudentTrainable", actor_id=bytes(16), pid=7, error_message="\nits node\nis gone"
)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OutOfMemoryError("it took\ntoo much"), "out of memory: it took"),
        (NodeDiedError("of power"), "lost with its node: of power"),
        (ActorDiedError(PREEMPTED), "its node was taken away"),
        (ActorDiedError(LOST), "its node"),
        (ActorDiedError(), ActorDiedError.BASE_ERROR_MSG),
        (ActorUnavailableError("of the network", bytes(16)), "of the network"),
        (LocalRayletDiedError(), "raylet died"),
    ],
)
def test_the_type_of_an_error_gives_the_reason(error: RayError, reason: str) -> None:
    described = describe_worker_failure(error)
    assert reason in described
    assert "\n" not in described


def test_a_trial_without_an_error_died_for_an_unknown_reason(tmp_path: Path) -> None:
    def reason(path: Path | None) -> str:
        trial = SimpleNamespace(pickled_error_file=path and str(path))
        return failure_reason(cast(Any, trial))

    assert reason(None) == reason(tmp_path / "gone") == UNKNOWN
    (tmp_path / "error.pkl").write_bytes(cloudpickle.dumps(NodeDiedError("of power")))
    assert reason(tmp_path / "error.pkl") == "lost with its node: of power"
