"""The thin Ray adapter round a trial."""

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray import tune

from trainables.config import RunConfig, TrialConfig
from trainables.errors import TrialFailed
from trainables.metrics import Metrics
from trainables.trial import Trial, give_memory_back, save

FAILURE, METRICS = "failure", "metrics"
"""Keys of a result: why the trial failed, or the epoch's Metrics as JSON."""


class StudentTrainable(tune.Trainable):
    """Trains `config["trial"]` where `config["run"]` says and leaves its files in `config["out"]`.

    A failed trial reports its reason as its last result: Ray hands no exception to a searcher.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.epochs: Iterator[Metrics] | None = None
        self.healthy = True

    def step(self) -> dict[str, Any]:
        try:
            self.epochs = self.epochs or start(self.config)
            metrics = next(self.epochs)
        except TrialFailed as failure:
            return {FAILURE: str(failure), "done": True}
        except Exception as error:
            traceback.print_exc()  # into the worker's own log
            self.healthy = False
            return {FAILURE: f"{type(error).__name__}: {error}", "done": True}
        return {METRICS: metrics.model_dump_json(), "done": metrics.finished}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.epochs = None
        give_memory_back()
        return self.healthy  # after an unforeseen error, a device may be beyond use

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass  # the finished model lies in the study's folder


def start(config: dict[str, Any]) -> Iterator[Metrics]:
    trial = TrialConfig.model_validate(config["trial"])
    return save(Trial(trial, RunConfig.model_validate(config["run"])), Path(config["out"]))
