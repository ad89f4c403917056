"""Completes the configurations of a study and predicts their costs before training."""

import math
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

from pydantic import JsonValue

from search.algorithms.candidates import find_cheapest, sample_configs
from search.algorithms.problem import SearchProblem
from search.core.config import StudyConfig
from search.core.constraints import Costs, OverBudget
from search.core.objectives import named_objectives
from search.core.training_defaults import chosen_defaults
from spaces import choose_students, load_space, with_co_study
from trainables.config import TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.errors import TrialFailed
from trainables.core.flags import flag_name
from trainables.core.terminal import track
from trainables.deploy.latency import latency_conditions, predict_latency
from trainables.models.configs import StudentConfig
from trainables.quantization.mixed_precision import Sensitivity, uniform_minimum_sensitivity
from trainables.quantization.prepare import quantizable_names
from trainables.training.cost import (
    count_macs,
    meta_network,
    model_spec,
    predict_ram_bytes,
    predict_size_bytes,
)

TEACHER_SHARE = 1 / 4
"""Share of a study's computation that the training of a teacher may take."""


def has_starts(config: StudyConfig) -> bool:
    """Whether students of the space start from others that are trained before them."""
    named = load_space(config.space)
    drawn = sample_configs(named.space, named.points_to_evaluate, config.seed)
    return any(trial.start is not None for trial, _ in drawn)


def distinct_starts(configs: Iterable[TrialConfig]) -> list[TrialConfig]:
    """The pretrainings that some configurations share, each once."""
    starts = [start for config in configs if (start := config.start)]
    return list({start.digest(): start for start in starts}.values())


def shared_starts(configs: Iterable[TrialConfig]) -> list[TrialConfig]:
    """The pretrainings that more than one of the configurations has, the commonest first."""
    configs = list(configs)
    counts = Counter(start.digest() for config in configs if (start := config.start))
    starts = sorted(distinct_starts(configs), key=lambda start: -counts[start.digest()])
    return [start for start in starts if counts[start.digest()] > 1]


class CostModel:
    """Completes the configurations of a study's space and predicts their costs.

    Args:
        canvas: height and width of every image, in pixels.
        store: caches measured latencies.

    `sensitivities` are those of each student for which the space suggests mixed precision. As long
    as they are None, `complete` allocates the fewest bits that a student may get.

    Raises:
        ValueError: there is no such space, or it raises an error.
    """

    def __init__(
        self, config: StudyConfig, num_classes: int, canvas: tuple[int, int], store: ArtifactStore
    ) -> None:
        self.config, self.num_classes, self.store = config, num_classes, store
        self.height, self.width = canvas
        named = with_co_study(load_space(config.space), config.co_study)
        self.named = choose_students(named, config.students, config.prune or ())
        self.defaults = chosen_defaults(config)
        self.sensitivities: dict[StudentConfig, Sensitivity] | None = None
        self.latencies: dict[str, float] = {}
        self.disturbed: set[str] = set()
        """Keys of latencies that were measured beside other work."""
        self.commonest_miou = 0.0
        """The mIoU of predicting the commonest class; known once data are packed."""

    @property
    def problem(self) -> SearchProblem:
        """The space with its costs, as the problem of a search."""
        return SearchProblem(
            space=self.named.space,
            complete=self.complete,
            predict_cost=self.predict_cost,
            predict_cost_if_known=self.predict_cost_if_known,
            objectives=named_objectives(self.config.objectives),
            budget=self.config.budget,
            commonest_miou=self.commonest_miou,
            least_miou=self.least_miou,
        )

    @property
    def least_miou(self) -> float:
        """The mIoU from which a hypervolume counts."""
        if self.config.least_miou is None:
            return self.commonest_miou
        return self.config.least_miou

    def complete(self, trial: TrialConfig) -> TrialConfig:
        """Sets the fields that the study fixes for all its trials.

        Raises:
            TrialFailed: the sensitivity of its student is not known.
        """
        if trial.needs_sensitivity and (quantized := trial.recipe.quantized):
            network = meta_network(trial.student, self.num_classes)
            sensitivity = self._sensitivity_of(trial.student)
            resolved = quantized.quantizer.resolve(sensitivity, network.group_of)
            trial = trial.with_recipe(quantizer=resolved)
        if quantized := trial.recipe.quantized:
            chosen: dict[str, object] = {}
            if self.config.quantizer:
                assert quantized.quantizer.quantizer
                chosen["quantizer"] = quantized.quantizer.quantizer.of_kind(self.config.quantizer)
            if self.config.calibration:
                chosen["calibration"] = self.config.calibration
            trial = trial.with_recipe(**chosen)
        return self.defaults.complete(trial, self.config.num_epochs, self.config.seed)

    def _sensitivity_of(self, student: StudentConfig) -> Sensitivity:
        if self.sensitivities is None:
            network = meta_network(student, self.num_classes)
            return uniform_minimum_sensitivity(quantizable_names(network))
        if student not in self.sensitivities:
            raise TrialFailed(f"no sensitivity is known of {student.describe()}")
        return self.sensitivities[student]

    def predict_cost(self, trial: TrialConfig) -> Costs:
        """The costs of a configuration; its latency only where the study asks for it."""
        return Costs(
            size_bytes=predict_size_bytes(trial, self.num_classes),
            macs=self.macs(trial),
            latency_ms=self.latency_ms(trial) if self.config.wants_latency else None,
            latency_disturbed=self.config.wants_latency and self.is_disturbed(trial),
            ram_bytes=self.ram_bytes(trial),
        )

    def ram_bytes(self, trial: TrialConfig) -> int:
        """The peak of the bytes of activations for one image."""
        return predict_ram_bytes(trial, self.num_classes, self.height, self.width)

    def macs(self, trial: TrialConfig) -> int:
        """Multiply-accumulates for one image."""
        return count_macs(trial.student, self.num_classes, self.height, self.width)

    def predict_cost_if_known(self, trial: TrialConfig) -> Costs | None:
        """The same, or None where a latency would have to be measured."""
        if self.config.wants_latency and self.latency_key(trial) not in self.latencies:
            return None
        return self.predict_cost(trial)

    def latency_ms(self, trial: TrialConfig) -> float:
        """The latency of the fast export on this machine, measured where it is not known yet."""
        key = self.latency_key(trial)
        if key not in self.latencies:
            spec = model_spec(trial, self.num_classes)
            latency = predict_latency(spec, self.height, self.width, self.store)
            self.latencies[key] = latency.median_ms
            if latency.is_disturbed:
                self.disturbed.add(key)
        return self.latencies[key]

    def is_disturbed(self, trial: TrialConfig) -> bool:
        """Whether the latency of a configuration was measured beside other work."""
        return self.latency_key(trial) in self.disturbed

    def latency_conditions(self) -> dict[str, JsonValue] | None:
        """The conditions of latency measurements; None where the study asks for no latency."""
        return latency_conditions(self.height, self.width) if self.config.wants_latency else None

    def latency_key(self, trial: TrialConfig) -> str:
        """A key that is equal for configurations with the same latency under equal conditions."""
        return model_spec(trial, self.num_classes).model_dump_json()

    def sampled_configs(self) -> list[TrialConfig]:
        """Configurations of the space, its points to evaluate among them."""
        drawn = sample_configs(self.named.space, self.named.points_to_evaluate, self.config.seed)
        return [config for config, _ in drawn]

    def completed_samples(self) -> list[TrialConfig]:
        """The same, completed; without students whose pretraining failed.

        No trial of such a student is trained.
        """
        probed = []
        for config in self.sampled_configs():
            with suppress(TrialFailed):
                probed.append(self.complete(config))
        return probed

    def pretraining_configs(self) -> dict[StudentConfig, TrialConfig]:
        """The pretraining of each student for which the space suggests mixed precision."""
        drawn = {
            config.student: self.complete(config).start
            for config in self.sampled_configs()
            if config.needs_sensitivity
        }
        return {student: start for student, start in drawn.items() if start}

    def own_teacher_config(self, num_epochs: int) -> TrialConfig:
        """The teacher where no trained one is named: the network to compress, or one to train."""
        config = self.config
        return self.defaults.own_teacher_config(
            config.students, config.num_epochs, config.seed, num_epochs
        )

    @property
    def teacher_work(self) -> float:
        """The training of a teacher, as a multiple of that of one network on students' images."""
        config = self.config
        larger = (config.teacher_size or config.image_size) / config.image_size
        return config.teacher_seeds * larger**2

    def affordable_teacher_epochs(self, num_images: int) -> int:
        """Epochs of a teacher on so many training images that take a quarter of the computation.

        At least half those of a student, and at most what the defaults say. Students and their
        starts are estimated by the configurations that are tried first, where those that are
        stopped early leave about half.
        """
        configs = self.completed_samples()[: self.config.samples]
        starts = distinct_starts(configs)
        trained = self.config.samples / max(1, len(configs))
        if self.config.scheduler == "halving":
            trained /= 2
        macs = trained * sum(config.num_epochs * self.macs(config) for config in configs)
        macs += sum(start.num_epochs * self.macs(start) for start in starts)
        teacher = self.defaults.default_teacher_config(num_epochs=1)
        teacher_macs = self.teacher_work * self.macs(teacher)
        affordable = int(macs * TEACHER_SHARE / (1 - TEACHER_SHARE) / teacher_macs)
        longest = self.defaults.num_epochs(self.defaults.teacher_steps, num_images)
        least = math.ceil(self.config.num_epochs / 2)
        return max(least, min(longest, affordable))

    def measure_latencies(self) -> None:
        """Measures the latencies of samples of the space while nothing else runs."""
        for trial in track(self.completed_samples(), "measuring latency"):
            self.latency_ms(trial)

    def check_budget(self) -> None:
        """Raises OverBudget where no student of the space meets the budget."""
        budget = self.config.budget

        def violation(trial: TrialConfig) -> float:
            try:
                excess = budget.excess(self.predict_cost(self.complete(trial)))
            except TrialFailed:  # its pretraining failed: it cannot be trained
                return math.inf
            return sum(max(0.0, value) for value in excess.values())

        if not any(limit for _, limit in budget):
            return
        best = self.complete(
            find_cheapest(self.named.space, violation, self.named.points_to_evaluate)
        )
        costs = self.predict_cost(best)
        exceeded = [name for name, excess in budget.excess(costs).items() if excess > 0]
        if exceeded:
            flags = " and ".join(flag_name(StudyConfig, f"max_{name}") for name in exceeded)
            raise OverBudget(
                f"{flags} must admit students of space {self.config.space}, but its cheapest has "
                f"{budget.describe_violations(costs)}"
            )
