"""Trains the front once more with another seed, where the time budget leaves time for it.

The front consists of the best of many trainings, and the best of many are better than the same
configurations are on average. The second training says how much of a point is its seed.
"""

import json

from search.core.pareto import pareto_front
from search.execution.parallel import ParallelTraining
from search.execution.places import TrialPlaces
from search.execution.shutdown import GracefulShutdown
from search.execution.stopping import Deadline
from search.storage.trials import store_other_seed
from search.study.study import Study, read_records
from search.tracking.console import ConsoleProgress
from trainables.config import ExecutionConfig
from trainables.core.artifacts import Artifact, present
from trainables.core.errors import TrialFailed
from trainables.models.model_file import METRICS_FILE
from trainables.training.trial import train_or_find


def train_front_again(
    study: Study,
    run: ExecutionConfig,
    places: TrialPlaces,
    deadline: Deadline,
    shutdown: GracefulShutdown,
    progress: ConsoleProgress,
) -> None:
    """Trains each member of the front whose first training took less time than is left.

    What came trained is left out, and what was trained again before. Scores are kept in the
    journal.

    Raises:
        DiskFull: a disk is full.
        KeyboardInterrupt: the user asked to stop.
    """
    members = {
        record.trial_id: record
        for record in pareto_front(read_records(study), study.objectives)
        if record.config and not record.config.recipe.is_reference
        if record.metrics and record.other_seed_miou is None
    }
    trainings = {
        trial_id: record.config.replace(seed=record.config.seed + 1)
        for trial_id, record in members.items()
        if record.config
    }

    def seconds_of(trial_id: str) -> float:
        metrics = members[trial_id].metrics
        assert metrics
        return metrics.device_seconds + (metrics.start_seconds or 0)

    def on_end(trial_id: str, outcome: Artifact | TrialFailed) -> None:
        before = members[trial_id].metrics
        assert before
        if isinstance(outcome, TrialFailed):
            progress.record(f"warning: trial {trial_id} with another seed: {outcome}")
            return
        miou = json.loads(present(outcome.path / METRICS_FILE).read_bytes())[-1]["miou"]
        store_other_seed(study.optuna_study, trial_id, miou)
        progress.record(
            f"trial {trial_id} with another seed: mIoU {100 * miou:.1f} % instead of "
            f"{100 * before.miou:.1f} %"
        )

    train = ParallelTraining(
        train_or_find, run, places, shutdown, study.config.folder, progress.record
    )
    train(trainings, on_end, lambda trial_id: seconds_of(trial_id) < deadline.left_s)
