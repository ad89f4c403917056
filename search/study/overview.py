"""What a study is doing, in a few lines: trials by state, front, nodes, and what is left."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import optuna

from search.core.objectives import named_objectives
from search.core.pareto import pareto_front
from search.core.record import Record, RecordState, total_cost
from search.storage.driver_status import DriverStatus, read_driver_status
from search.storage.journal import read_journal
from search.storage.layout import JOURNAL, LOG, lock_path
from search.storage.study_file import StudyFile, check_not_running
from search.storage.trials import read_asked_records, read_phases, read_utilisation
from search.tracking.remaining_time import write_left
from trainables.core.mirror import is_mirrored
from trainables.core.mirror_lock import is_held
from trainables.core.progress import human_duration
from trainables.core.units import human_cost, human_size

STATES: Mapping[RecordState, str] = {
    "COMPLETE": "complete",
    "PRUNED": "stopped or refused",
    "FAIL": "failed",
    "RUNNING": "running",
    "PAUSED": "to be gone on with",
}
"""The states of trials, in the order and by the names in which they are shown."""
STALE_S = 60.0
"""Seconds after which the last word of a driver is said to be old."""


def overview(file: StudyFile, now: float) -> Iterator[tuple[str, str]]:
    """Names and values of what there is to say; `now` is in seconds since 1970.

    Raises:
        ValueError: the journal is damaged.
    """
    config, folder = file.config, file.config.folder
    running = is_running(file)
    journal = read_study_journal(file)
    records = read_asked_records(journal) if journal else []
    yield "study", f"{config.name}, {'running' if running else 'not running'}"
    status = read_driver_status(folder) if running else None
    states = count_states(records, status.num_waiting if status else 0)
    yield "trials", f"{num_begun(records)} of {config.samples} begun{states}"
    yield "front", describe_front(pareto_front(records, named_objectives(config.objectives)))
    seconds = sum(record.metrics.device_seconds for record in records if record.metrics)
    yield "device time", human_duration(seconds) if seconds else "none"
    utilisation = read_utilisation(journal) if journal and not running else None
    if utilisation is not None:
        yield "utilisation", f"{utilisation:.0%} of the devices while trials ran"
    if journal and (times := read_phases(journal)).phases:
        yield "phases", str(times)
    if (cost := total_cost(records)) is not None:
        yield "cost", f"{human_cost(cost)}, without the teacher and idle nodes"
    for record in records:
        if running and record.state == "RUNNING":
            yield f"trial {record.trial_id}", describe_running(record)
    if running:
        if status:
            yield from describe_nodes(status, now)
        if line := last_line(folder / LOG):
            yield "last step", line


def summary(file: StudyFile) -> str:
    """A study in one line.

    Raises:
        ValueError: the journal is damaged.
    """
    config, records = file.config, read_records(file)
    state = "running" if is_running(file) else "not running"
    front = describe_front(pareto_front(records, named_objectives(config.objectives)))
    return f"{state}, {num_begun(records)} of {config.samples} trials, front: {front}"


def is_running(file: StudyFile) -> bool:
    """Whether a driver holds the lock of the study, as far as can be seen from here."""
    lock_file = lock_path(file.config.storage, file.config.name)
    if is_mirrored(lock_file):
        return is_held(lock_file)
    try:
        check_not_running(file.config)
    except ValueError:
        return True
    except OSError:  # the lock is of another user
        return read_driver_status(file.config.folder) is not None
    return False


def read_study_journal(file: StudyFile) -> optuna.Study | None:
    """The Optuna study; None where the driver has not yet begun the journal."""
    folder = file.config.folder
    return read_journal(folder, file.config.name) if (folder / JOURNAL).is_file() else None


def read_records(file: StudyFile) -> list[Record]:
    """The trials that were asked for; none where there is no journal yet."""
    journal = read_study_journal(file)
    return read_asked_records(journal) if journal else []


def num_begun(records: Sequence[Record]) -> int:
    """The trials that count as samples: those that were not refused before they began."""
    return sum(record.ray_id is not None for record in records)


def count_states(records: Sequence[Record], num_waiting: int) -> str:
    """As ": 9 complete, 2 running, 1 waiting"."""
    counts = Counter(STATES[record.state] for record in records)
    counts["waiting"] = min(num_waiting, counts[STATES["RUNNING"]])
    counts[STATES["RUNNING"]] -= counts["waiting"]
    names = [*STATES.values(), "waiting"]
    named = [f"{counts[name]} {name}" for name in names if counts[name]]
    return f": {', '.join(named)}" if named else ""


def describe_front(front: Sequence[Record]) -> str:
    """As "5 models, 50.3 % at 32.9 KB to 60.9 % at 279 KB"."""
    points = [
        f"{100 * record.metrics.miou:.1f} % at {human_size(record.metrics.size_bytes)}"
        for record in front
        if record.metrics and record.metrics.size_bytes
    ]
    if len(points) < 2:
        return "".join(points) or "none yet"
    return f"{len(points)} models, {points[0]} to {points[-1]}"


def describe_running(record: Record) -> str:
    """How far a trial is."""
    if record.metrics is None or record.config is None:
        return "has not reported yet"
    epochs = f"epoch {record.metrics.epoch} of {record.config.num_epochs}"
    return f"{epochs}, mIoU {100 * record.metrics.miou:.1f} %"


def describe_nodes(status: DriverStatus, now: float) -> Iterator[tuple[str, str]]:
    """Nodes, their use, what trials wait for, and what is left."""
    yield "nodes", status.nodes
    shares = [
        f"{status.used[name]:g} of {count:g} {name}s"
        for name, count in status.offered.items()
        if count
    ]
    so_far = "" if status.utilisation is None else f"; {status.utilisation:.0%} so far"
    yield "in use", f"{', '.join(shares) or 'nothing'}{so_far}"
    if status.num_waiting:
        trials = "1 trial waits" if status.num_waiting == 1 else f"{status.num_waiting} trials wait"
        yield "waiting", f"{trials}: {status.reason}"
    since = now - status.written_at
    if status.left_s is not None and status.left_s > since:
        yield "expected", write_left(status.left_s - since)
    if since > STALE_S:
        yield "note", f"the driver said nothing for {human_duration(since)}"


def last_line(log: Path) -> str:
    """The last line of a log; "" where there is none."""
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return lines[-1] if lines else ""
