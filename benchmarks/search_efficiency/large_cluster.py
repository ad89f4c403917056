"""What a search on 64 nodes of 8 GPUs asks of its driver, and what resuming a large study takes.

    python -m benchmarks.search_efficiency.large_cluster --out table.md

The driver's own searcher, scheduler, places and journal run as in a study, one call after the
other, and their real time counts on the clock of the simulation; trainings are simulated. A GPU
waits for the driver after each epoch, as in Ray Tune. Without Ray, and without MLflow, which has a
thread of its own.
"""

import argparse
import heapq
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import optuna
import psutil
import torch

from benchmarks.search_efficiency.scale import (
    NUM_EPOCHS,
    finished,
    make_scheduler,
    make_searcher,
    open_study,
    report,
    tell,
)
from benchmarks.timing import describe_machine, markdown
from search.execution.places import TrialPlaces
from search.execution.resources import Nodes, NodeType, TrialResources
from search.execution.searcher import SearchLimits
from search.storage.layout import JOURNAL
from trainables.config import TrialConfig
from trainables.trainable import METRICS

Result = TypeVar("Result")
NODES = Nodes((NodeType(64, 8, "H100", running=64, most=64),), is_cluster=True)
SHARE = TrialResources(cpus=8, gpus=1)
NUM_GPUS = NODES.num_running(SHARE)


class Clock:
    """The time of the simulation; what the driver does takes as long as it really takes."""

    def __init__(self) -> None:
        self.now = self.driver_s = 0.0

    def drive(self, work: Callable[[], Result]) -> Result:
        begin = time.perf_counter()
        result = work()
        passed = time.perf_counter() - begin
        self.now += passed
        self.driver_s += passed
        return result


def simulate(folder: Path, num_trials: int, epoch_s: float) -> list[object]:
    """A row of the table: how well the GPUs are used until the last trial has begun."""
    study = open_study(folder)
    places = TrialPlaces(lambda: NODES, lambda nodes: [SHARE])
    searcher = make_searcher(study, [])
    searcher.limits = SearchLimits(num_trials, place=places.next)
    searcher.trials_left = num_trials
    scheduler = make_scheduler(searcher)
    clock, ends = Clock(), list[tuple[float, str, TrialConfig, int]]()
    waiting, launched, busy_s, slowest = list[tuple[str, TrialConfig]](), 0, 0.0, 0.0
    begin = time.process_time()
    while launched < num_trials:
        if ends and ends[0][0] <= clock.now:
            _, job, config, epoch = heapq.heappop(ends)
            busy_s += epoch_s
            metrics = report(config, epoch).model_dump_json()
            result = {METRICS: metrics, "training_iteration": epoch}
            if clock.drive(lambda: tell(searcher, scheduler, job, epoch, result)):  # noqa: B023
                heapq.heappush(ends, (clock.now + epoch_s, job, config, epoch + 1))
        elif waiting and len(ends) < NUM_GPUS:
            job, config = waiting.pop(0)
            heapq.heappush(ends, (clock.now + epoch_s, job, config, 1))
        else:
            before, job = clock.driver_s, str(launched)
            suggestion = clock.drive(lambda: searcher.suggest(job))  # noqa: B023
            slowest = max(slowest, clock.driver_s - before)
            if isinstance(suggestion, dict):
                waiting.append((job, TrialConfig.model_validate(suggestion["trial"])))
                launched += 1
            elif suggestion:
                raise RuntimeError(f"the search has ended: {searcher.end}")
            else:
                clock.now = max(clock.now, ends[0][0])
    busy_s += sum(epoch_s - (end - clock.now) for end, *_ in ends)
    return [
        f"{num_trials:,}",
        f"{epoch_s:g}",
        f"{clock.now / 60:.0f}",
        f"{busy_s / (NUM_GPUS * clock.now):.3f}",
        f"{(time.process_time() - begin) / clock.now:.2f}",
        f"{1000 * clock.driver_s / num_trials:.0f}",
        f"{1000 * slowest:.0f}",
        f"{(folder / JOURNAL).stat().st_size / 1e6:.0f}",
        f"{psutil.Process().memory_info().rss / 1e6:.0f}",
    ]


def resume(folder: Path, num_trials: int) -> list[object]:
    """A row of the table: what a driver does that goes on with a study of so many trials."""
    open_study(folder).add_trials(list(finished(num_trials)))
    before = psutil.Process().memory_info().rss
    begin = time.perf_counter()
    study = open_study(folder)
    read_s = time.perf_counter() - begin
    searcher = make_searcher(study, [])
    opened_s = time.perf_counter() - begin
    searcher.suggest("next")
    asked_s = time.perf_counter() - begin - opened_s
    return [
        f"{num_trials:,}",
        f"{(folder / JOURNAL).stat().st_size / 1e6:.0f}",
        f"{read_s:.1f}",
        f"{opened_s:.1f}",
        f"{1000 * asked_s:.0f}",
        f"{(psutil.Process().memory_info().rss - before) / 1e6:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="gets the tables, as Markdown")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epoch-s", type=float, nargs="+", default=[30.0])
    parser.add_argument("--resumed", type=int, nargs="+", default=[10_000, 100_000])
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    rows, resumed = list[list[object]](), list[list[object]]()
    for count in arguments.resumed:
        with tempfile.TemporaryDirectory() as folder:
            resumed.append(resume(Path(folder), count))
            print(*resumed[-1], flush=True)
    for epoch_s in arguments.epoch_s:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(simulate(Path(folder), arguments.trials, epoch_s))
            print(*rows[-1], flush=True)
    heading = ["trials", "s an epoch", "minutes", "GPUs in use", "driver's cores"]
    heading += ["driver's ms a trial", "slowest ask, ms", "journal, MB", "driver's MB"]
    kept = ["trials", "journal, MB", "s to read it", "s until trials can be asked"]
    kept += ["ms of the first ask", "MB more"]
    arguments.out.write_text(
        f"{describe_machine(torch.device('cpu'))}. {NUM_GPUS} GPUs, trials of {NUM_EPOCHS} epochs "
        f"on a GPU each, halving, sampler `ehvi`, space `qkd`.\n\n{markdown(heading, rows)}\n"
        f"{markdown(kept, resumed)}"
    )
    print(arguments.out.read_text())


if __name__ == "__main__":
    main()
