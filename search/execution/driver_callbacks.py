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
from search.execution.cluster_address import on_cluster
from search.execution.prices import trial_price
from search.execution.ray_internals import draining_nodes, node_of
from search.execution.searcher import OptunaSearcher
from search.execution.shared_storage import LOOK_EVERY_S, shared_storage
from search.execution.waiting import WaitingNotice
from search.storage.driver_status import DriverStatus, write_driver_status
from search.storage.layout import leave_file
from trainables.core.files import replace_file

SHOWN = ("CPU", "GPU")


class DriverCallback(tune.Callback):
    """A callback that lives as long as the driver, and has no state for Ray's snapshots."""

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        return tune.Callback, ()


class PeriodicCallback(DriverCallback):
    """One that looks at the trials every few seconds, however often Ray Tune's loop turns."""

    every_s: float
    looked = -math.inf

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        if time.monotonic() - self.looked >= self.every_s:
            self.looked = time.monotonic()
            self.look(trials)

    def look(self, trials: Any) -> None:
        """Looks at Ray Tune's trials."""
        raise NotImplementedError


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


class TrialPrices(DriverCallback):
    """Keeps what an hour of each trial costs, by the node that runs it.

    Args:
        node_price: of an hour of any node; None: each has its own as a label, or none.
    """

    def __init__(self, searcher: OptunaSearcher, node_price: float | None) -> None:
        self.searcher, self.node_price = searcher, node_price

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        share, node_id = self.searcher.places[trial.trial_id], node_of(trial)
        for node in ray.nodes():  # type: ignore[no-untyped-call]
            if node["NodeID"] == node_id:
                price = trial_price(node, share, self.node_price)
                if price is not None and trial.trial_id in self.searcher.asked:
                    self.searcher.price(trial.trial_id, price)


class DrainingNodes(PeriodicCallback):
    """Has trials leave the nodes that will soon be gone, with a checkpoint, to go on elsewhere."""

    every_s = LOOK_EVERY_S

    def __init__(self, searcher: OptunaSearcher, folder: Path, say: Callable[[str], None]) -> None:
        self.searcher, self.folder, self.say = searcher, folder, say
        self.told = set[str]()

    def look(self, trials: Any) -> None:
        if not on_cluster() or not (draining := draining_nodes()):
            return
        for trial in trials:
            is_running = trial.status == Trial.RUNNING and trial.trial_id in self.searcher.asked
            if is_running and trial.trial_id not in self.told and node_of(trial) in draining:
                self.told.add(trial.trial_id)
                name = self.searcher.name_of(trial.trial_id)
                with suppress(OSError):  # a full disk: then it goes on from its last checkpoint
                    replace_file(leave_file(self.folder, trial.trial_id), "")
                self.say(f"trial {name} leaves its node, which will soon be gone")


class StatusWriter(PeriodicCallback):
    """Keeps the `DriverStatus` of a study up to date, for `search.status`.

    Args:
        folder: of the study.
        left_s: gives the seconds that the search will still take.
    """

    every_s = 5.0

    def __init__(
        self, searcher: OptunaSearcher, folder: Path, left_s: Callable[[], float | None]
    ) -> None:
        self.searcher, self.folder, self.left_s = searcher, folder, left_s
        self.used_s = self.offered_s = 0.0
        """Seconds of all GPUs, or without any of all CPUs, since trials began."""

    def look(self, trials: Any) -> None:
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
        used = {name: offered[name] - free.get(name, 0.0) for name in SHOWN}
        device = "GPU" if offered["GPU"] else "CPU"
        self.used_s += used[device] * self.every_s
        self.offered_s += offered[device] * self.every_s
        return DriverStatus(
            written_at=time.time(),
            nodes=offered_nodes().describe(),
            used=used,
            offered=offered,
            utilisation=self.used_s / self.offered_s if self.offered_s else None,
            num_waiting=len(waiting),
            reason=why_nothing_runs(self.searcher.places[waiting[0]]) if waiting else "",
            left_s=self.left_s(),
        )
