"""What a searcher remembers of its trials, as the sampler and the search for repeats want it."""

from collections.abc import Callable, Sequence

import optuna

from search.budget import Costs
from search.objectives import Objective
from search.observation import Observation
from search.record import Record, asked_trials, read_record
from trainables.config import TrialConfig
from trainables.errors import NOT_FINITE, NOT_LEARNING
from trainables.metrics import Metrics


class Memory:
    """Learns from records; `observations` are by trial, `trained` gives the trial of a digest."""

    def __init__(
        self,
        objectives: Sequence[Objective],
        foresee: Callable[[TrialConfig], Costs | None],
        commonest_miou: float = 0.0,
    ) -> None:
        """`commonest_miou` is that of predicting the commonest class, as a failed training has."""
        self.objectives, self.foresee = objectives, foresee
        self.commonest_miou = commonest_miou
        self.observations: dict[str, Observation] = {}
        self.trained: dict[str, str] = {}

    def learn(self, record: Record) -> None:
        """Takes in what is known of a trial now; one that was never launched teaches nothing."""
        if record.ray_id is None or record.config is None:
            return
        self.observations.pop(record.trial_id, None)
        self.trained[record.config.digest()] = record.trial_id
        costs = self.costs(record.config)
        failed = record.state == "FAIL"
        if costs is None or (failed and not record.reason.startswith((NOT_LEARNING, NOT_FINITE))):
            return
        miou = next(i for i, o in enumerate(self.objectives) if o.metric == "miou")
        self.observations[record.trial_id] = Observation(
            params=record.params,
            distributions=record.distributions,
            costs=costs,
            partial={
                a.rung: -a.losses[miou]
                for a in record.arrivals
                if a.rung < record.config.num_epochs and not failed
            },
            running=record.state in ("RUNNING", "PAUSED"),
            final=self._final(record),
            failed=failed,
        )

    def _final(self, record: Record) -> float | None:
        if record.state == "FAIL":
            return self.commonest_miou
        return record.metrics.miou if record.state == "COMPLETE" and record.metrics else None

    def learn_all(self, study: optuna.Study) -> None:
        """Takes in all trials of a study that were asked for."""
        for trial in asked_trials(study):
            self.learn(read_record(trial))

    def costs(self, config: TrialConfig) -> tuple[float, ...] | None:
        """The objectives but mIoU; None where one would have to be measured."""
        foreseen = self.foresee(config)
        return None if foreseen is None else self.values(foreseen)

    def losses(self, trial_id: str, metrics: Metrics) -> list[float]:
        """The objectives of a trial as a scheduler ranks them; costs are exact."""
        costs = iter(self.observations[trial_id].costs)
        return [
            o.sign * (metrics.miou if o.metric == "miou" else next(costs)) for o in self.objectives
        ]

    def values(self, foreseen: Costs) -> tuple[float, ...] | None:
        """The same of costs that are known already."""
        values = [getattr(foreseen, o.metric) for o in self.objectives if o.metric != "miou"]
        return None if None in values else tuple(float(value) for value in values)

    def known(self) -> list[Observation]:
        """All observations, in the order in which trials were asked."""
        return [self.observations[trial_id] for trial_id in sorted(self.observations, key=int)]
