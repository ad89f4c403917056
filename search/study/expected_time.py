"""How long a study will take, estimated before it trains anything."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from search.execution.session import RemoteRunner
from search.study.cost_model import distinct_starts
from search.study.study import Study, samples_left
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.progress import human_duration
from trainables.recipes.configs import Recipe
from trainables.teachers.averaging import is_trained_here
from trainables.training.identity import ARTIFACT_KIND, artifact_key
from trainables.training.time_probe import (
    find_step_seconds,
    keep_step_seconds,
    measure_step_seconds,
)

STOPPED_SHARE = 0.5
"""Share of the epochs of all trials that successive halving leaves out, roughly."""
EVALUATION = 1 / 3
"""Cost of evaluating an image, as a share of training on it."""
CHECKS = 2
"""Evaluations beside those of epochs: the student and its packed file are compared."""
JUDGED = 2
"""Epochs after which teachers and starts are evaluated; trials are after each."""


@dataclass(frozen=True)
class ExpectedTime:
    """Seconds of the teacher, of a full-precision start and of a trial that is not stopped."""

    teacher_s: float
    num_starts: int
    start_s: float
    num_trials: int
    trial_s: float
    num_parallel: int
    halving: bool
    adaround: bool = False
    """Whether calibration takes minutes, which are not counted."""

    @property
    def search_s(self) -> float:
        """Seconds from the first trial until all are trained.

        Starts are trained side by side, by trials that would wait for one another's.
        """
        trials_s = self.num_trials * self.trial_s * (STOPPED_SHARE if self.halving else 1)
        at_once = max(1, min(self.num_parallel, self.num_starts))
        starts_s = self.num_starts * self.start_s / at_once
        return starts_s + trials_s / self.num_parallel

    @property
    def total_s(self) -> float:
        """The same, and those of the teacher."""
        return self.teacher_s + self.search_s

    def __str__(self) -> str:
        return f"expected: {', '.join(self._parts())}"

    def _parts(self) -> Iterator[str]:
        if self.teacher_s:
            yield f"a teacher of {human_duration(self.teacher_s)}"
        if self.num_starts:
            yield (
                f"about {self.num_starts} full-precision students of "
                f"{human_duration(self.start_s)} to start from"
            )
        early = ", of which most are stopped early" if self.halving else ""
        yield f"{self.num_trials} trials of {human_duration(self.trial_s)}{early}"
        more = ", and minutes of --calibration adaround for each" if self.adaround else ""
        yield f"{self.num_parallel} at once: about {human_duration(self.total_s)} in all{more}"


def taught_share(recipe: Recipe) -> float:
    """The share of the optimizer steps that use the teacher, to a thousandth."""
    return 1 - recipe.taught_from(1000) / 1000


def step_seconds(
    remote: RemoteRunner,
    run: ExecutionConfig,
    probed: Sequence[tuple[TrialConfig, int]],
    say: Callable[[str], None],
) -> dict[str, float]:
    """The seconds of a step, by the digest of a configuration, each with a number of threads.

    They are measured on a worker, unless that has been done on the same hardware.
    """
    hardware, known = remote.hardware, dict[str, float]()
    unknown = []
    for config, threads in probed:
        if (seconds := find_step_seconds(run, config, threads, hardware)) is None:
            unknown.append((config, threads))
        else:
            known[config.digest()] = seconds
    if unknown:
        say("measuring how long a training step takes")
        measured = remote(run, measure_step_seconds, *zip(*unknown, strict=True))
        for (config, threads), seconds in zip(unknown, measured, strict=True):
            keep_step_seconds(run, config, threads, hardware, seconds)
            known[config.digest()] = seconds
    return known


def expect_time(
    study: Study,
    remote: RemoteRunner,
    run: ExecutionConfig,
    num_parallel: int,
    say: Callable[[str], None],
) -> ExpectedTime | None:
    """The estimate for what is left of a study, from a few measured steps.

    None where nothing is left, or where no student is known to be trained.
    A student of median size stands for all; a teacher that runs at every step is not counted. Of a
    network that is compressed, and is the teacher, the outputs for all images are. Where there are
    unlabelled images, a step that uses the teacher takes twice as long. Of students that are only
    calibrated, evaluations are counted, not what `--calibration` adds.
    """
    model, num_left = study.cost_model, samples_left(study)
    configs = sorted(model.completed_samples()[: max(1, num_left)], key=model.macs)
    store = ArtifactStore(run.artifacts)

    def is_kept(config: TrialConfig, run: ExecutionConfig = run) -> bool:
        return store.find(ARTIFACT_KIND, artifact_key(config, run, store)) is not None

    teacher = None
    if is_trained_here(study.config.teacher) and any(config.needs_teacher for config in configs):
        own = model.own_teacher_config(study.teacher_epochs)
        if own.recipe.is_reference or not is_kept(own, run.of_teacher):
            teacher = own
    starts = [
        start
        for start in distinct_starts(configs)
        if not start.recipe.only_calibrates and (start.needs_teacher or not is_kept(start))
    ]
    if not num_left or not configs:
        return None
    median = configs[len(configs) // 2]
    typical = median.replace(recipe=median.recipe.without_teacher())
    start = typical.start if starts else None
    probed = [
        (config, remote.share.threads if config is teacher else 1)
        for config in (typical, start, teacher)
        if config is not None
    ]
    seconds = step_seconds(remote, run, probed, say)

    def seconds_of(config: TrialConfig | None, taught: TrialConfig | None = None) -> float:
        """Of a probed configuration, which stands for that with a teacher."""
        if config is None:
            return 0.0
        num_images = (len(study.data.train), len(study.data.val))
        num_steps, evaluated = (each / config.batch_size for each in num_images)
        if config.recipe.is_reference:  # as a teacher, which sees images and mirror images
            return seconds[config.digest()] * 2 * (num_steps + evaluated)
        num_epochs = config.num_epochs if config is typical else min(JUDGED, config.num_epochs)
        evaluated *= num_epochs + CHECKS
        if config.recipe.only_calibrates:
            return seconds[config.digest()] * evaluated
        num_steps = config.num_epochs * max(1, int(num_steps))
        if taught and study.unlabelled:
            num_steps *= 1 + taught_share(taught.recipe)
        return seconds[config.digest()] * (num_steps + EVALUATION * evaluated)

    return ExpectedTime(
        teacher_s=seconds_of(teacher) * model.teacher_work,
        num_starts=len(starts),
        start_s=seconds_of(start, median.start),
        num_trials=num_left,
        trial_s=seconds_of(typical, median),
        num_parallel=num_parallel,
        halving=study.config.scheduler == "halving" and not typical.recipe.only_calibrates,
        adaround="adaround" in (study.config.calibration or ()),
    )
