"""Callbacks by which Ray Tune's loop looks at the nodes of a study and says what they do."""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from search.execution.cluster import offered_nodes, why_nothing_runs
from search.execution.searcher import OptunaSearcher
from search.execution.shared_storage import shared_storage
from search.execution.waiting import WaitingNotice
from search.storage.driver_status import DriverStatus, write_driver_status

WRITE_EVERY_S = 5.0
SHOWN = ("CPU", "GPU")


class DriverCallback(tune.Callback):
    """A callback that lives as long as the driver, and has no state for Ray's snapshots."""

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        return tune.Callback, ()


class NothingRuns(DriverCallback):
    """Says why trials wait where none of them runs."""

    def __init__(self, searcher: OptunaSearcher, say: Callable[[str], None]) -> None:
        self.searcher = searcher
        self.notice = WaitingNotice(say, self._why)

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        if self.searcher.asked and not any(trial.status == Trial.RUNNING for trial in trials):
            self.notice.look()
        else:
            self.notice.restart()

    def _why(self) -> str:
        return why_nothing_runs(self.searcher.places[next(iter(self.searcher.asked))])


class JoinedNodes(DriverCallback):
    """Checks that nodes that join the cluster share the storage.

    Raises:
        StorageNotShared: one does not, so that the trials that it takes would fail.
    """

    def __init__(self, storage: Path) -> None:
        self.shared = shared_storage(storage)

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        self.shared.look()


class StatusWriter(DriverCallback):
    """Keeps the `DriverStatus` of a study up to date, for `search.status`.

    Args:
        folder: of the study.
        left_s: gives the seconds that the search will still take.
    """

    def __init__(
        self, searcher: OptunaSearcher, folder: Path, left_s: Callable[[], float | None]
    ) -> None:
        self.searcher, self.folder, self.left_s = searcher, folder, left_s
        self.written = -math.inf

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        if time.monotonic() - self.written < WRITE_EVERY_S:
            return
        self.written = time.monotonic()
        waiting = [
            trial.trial_id
            for trial in trials
            if trial.status == Trial.PENDING and trial.trial_id in self.searcher.asked
        ]
        with suppress(OSError):  # a full disk is noticed by the journal
            write_driver_status(self.folder, self._status(waiting))

    def _status(self, waiting: list[str]) -> DriverStatus:
        total = ray.cluster_resources()  # type: ignore[no-untyped-call]
        offered = {name: total.get(name, 0.0) for name in SHOWN}
        free = ray.available_resources()  # type: ignore[no-untyped-call]
        return DriverStatus(
            written_at=time.time(),
            nodes=offered_nodes().describe(),
            used={name: offered[name] - free.get(name, 0.0) for name in SHOWN},
            offered=offered,
            num_waiting=len(waiting),
            reason=why_nothing_runs(self.searcher.places[waiting[0]]) if waiting else "",
            left_s=self.left_s(),
        )
