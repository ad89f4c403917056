"""What the driver costs: seconds from asking to launching, for each trial and result, and memory.

    python -m benchmarks.search_efficiency.scale

With Optuna's journal and MLflow's SQLite store on disk, as a study has them; trials are simulated.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import psutil
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from benchmarks.timing import describe_machine, markdown
from search.algorithms.candidates import sample_config
from search.algorithms.problem import SamplerSettings, SearchProblem
from search.core.constraints import Costs
from search.core.objectives import MIOU_AND_SIZE
from search.core.record import PREDICTED_SIZE
from search.execution.scheduler import ParetoHalving
from search.execution.searcher import OptunaSearcher, SearchLimits
from search.storage.layout import JOURNAL
from search.storage.trials import CONFIG, RAY_ID, RUNGS, metrics_key
from search.tracking.callbacks import AsyncCallback
from search.tracking.mlflow import MlflowTracker, make_store
from spaces import load_space
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.metrics import Metrics
from trainables.models.configs import UNetConfig
from trainables.trainable import METRICS
from trainables.training.cost import count_macs, predict_size_bytes

SPACE = load_space("qkd").space
COUNTS = (100, 1000, 10_000)
WORKERS = (1, 8, 64)
NUM_ASKS, NUM_TRIALS, NUM_EPOCHS = 15, 192, 27


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    print(describe_machine(torch.device("cpu")))
    rows: list[list[object]] = []
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            study = open_study(Path(folder))
            study.add_trials(list(finished(count)))
            begin = time.perf_counter()
            searcher = make_searcher(study, [])
            opened = time.perf_counter() - begin
            asks = [ask(searcher, f"new{number}") for number in range(NUM_ASKS)]
            rss = psutil.Process().memory_info().rss
            rows.append([
                f"{count:,}", f"{1000 * statistics.median(asks):.0f}", f"{1000 * max(asks):.0f}",
                f"{opened:.1f}", f"{rss / 1e6:.0f}",
            ])  # fmt: skip
    heading = ["finished trials", "ms from ask to launch", "slowest ms", "s to open"]
    print(markdown([*heading, "driver's MB"], rows))
    rows = [[workers, *drive(workers)] for workers in WORKERS]
    print(markdown(["workers", "driver's s a trial", "ms a result", "results/s, delivered"], rows))


def open_study(folder: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    directions = [objective.direction for objective in MIOU_AND_SIZE]
    return optuna.create_study(
        storage=storage, study_name="scale", directions=directions, load_if_exists=True
    )


def predict_cost(config: TrialConfig) -> Costs:
    return Costs(
        size_bytes=predict_size_bytes(config, 11), macs=count_macs(config.student, 11, 120, 160)
    )


def make_searcher(study: optuna.Study, callbacks: list[AsyncCallback]) -> OptunaSearcher:
    return OptunaSearcher(
        study,
        SearchProblem(
            space=SPACE,
            complete=lambda config: config.replace(num_epochs=NUM_EPOCHS),
            predict_cost=predict_cost,
            predict_cost_if_known=predict_cost,
        ),
        SamplerSettings(sampler="ehvi", seed=0),
        SearchLimits(num_trials=10**9),
        run=ExecutionConfig(data=Path("data"), artifacts=Path("artifacts")),
        folder=Path("."),
        callbacks=callbacks,
    )


def make_scheduler(searcher: OptunaSearcher) -> ParetoHalving:
    return ParetoHalving(
        searcher.minimized_values,
        NUM_EPOCHS,
        keep=searcher.record_decision,
        name_of=searcher.name_of,
    )


def finished(count: int) -> Iterator[optuna.trial.FrozenTrial]:
    """Trials as a study leaves them; one in three has come to its end."""
    for number in range(count):
        config, drawn = sample_config(SPACE, {}, number)
        config = config.replace(num_epochs=NUM_EPOCHS)
        size = predict_cost(config).size_bytes
        done = number % 3 == 0
        metrics = report(config, NUM_EPOCHS if done else 1)
        yield optuna.trial.create_trial(
            state=optuna.trial.TrialState.COMPLETE if done else optuna.trial.TrialState.PRUNED,
            params=dict(drawn.params),
            distributions=dict(drawn.distributions),
            values=[metrics.miou, size] if done else None,
            user_attrs={
                CONFIG: config.model_dump_json(),
                metrics_key(metrics.epoch): metrics.model_dump_json(),
                PREDICTED_SIZE: size,
                RAY_ID: str(number),
                RUNGS: {"1": [number, done, [-metrics.miou / 2, size]]},
            },
        )


def report(config: TrialConfig, epoch: int) -> Metrics:
    """Metrics of a training without noise."""
    size = predict_cost(config).size_bytes
    assert isinstance(config.student, UNetConfig)
    rate = config.recipe.learning_rate or 0
    miou = min(0.9, 0.1 + 0.02 * config.student.width + 40 * rate)
    return Metrics(
        epoch=epoch,
        time_ms=0,
        losses={"cross_entropy": 1.0, "pixelwise": 1.0, "pairwise": 1.0},
        miou=miou * (epoch / NUM_EPOCHS) ** 0.3,
        pixel_accuracy=0.5,
        size_bytes=size if epoch == NUM_EPOCHS else None,
        predicted_size_bytes=size,
        num_params=1,
        macs=1,
        device_seconds=float(epoch),
        start_seconds=0.0,
    )


def drive(workers: int) -> list[object]:
    """Driver seconds for each trial and each result, and results a second with tracking on."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        make_store(uri)
        tracking = MlflowTracker(uri, "scale", "scale", "0", folder, {}, [], {}, MIOU_AND_SIZE)
        asking = reporting = 0.0
        results = 0
        begin = time.perf_counter()
        callback = AsyncCallback(tracking)
        searcher = make_searcher(open_study(folder), [callback])
        scheduler = make_scheduler(searcher)
        running: dict[str, tuple[TrialConfig, int]] = {}
        launched = 0
        while launched < NUM_TRIALS or running:
            while len(running) < workers and launched < NUM_TRIALS:
                start = time.perf_counter()
                suggestion = searcher.suggest(str(launched))
                asking += time.perf_counter() - start
                assert isinstance(suggestion, dict)
                running[str(launched)] = TrialConfig.model_validate(suggestion["trial"]), 1
                launched += 1
            for job, (config, epoch) in list(running.items()):
                result = {
                    METRICS: report(config, epoch).model_dump_json(),
                    "training_iteration": epoch,
                }
                results += 1
                start = time.perf_counter()
                promoted = tell(searcher, scheduler, job, epoch, result)
                reporting += time.perf_counter() - start
                if promoted:
                    running[job] = config, epoch + 1
                else:
                    del running[job]
        callback.close(600)
        wall = time.perf_counter() - begin
        return [
            f"{(asking + reporting) / NUM_TRIALS:.3f}",
            f"{1000 * reporting / results:.1f}",
            f"{results / wall:.0f}",
        ]


def tell(
    searcher: OptunaSearcher, scheduler: ParetoHalving, job: str, epoch: int, result: dict[str, Any]
) -> bool:
    """What Tune does with a result; whether the trial goes on."""
    trial: Any = SimpleNamespace(trial_id=job)
    if epoch == NUM_EPOCHS:
        scheduler.on_trial_complete(None, trial, result)
        searcher.on_trial_complete(job, result)
        return False
    if scheduler.on_trial_result(None, trial, result) == "STOP":
        searcher.on_trial_complete(job, result)
        return False
    searcher.on_trial_result(job, result)
    return True


def ask(searcher: OptunaSearcher, job: str) -> float:
    """Seconds until a trial can be launched."""
    begin = time.perf_counter()
    searcher.suggest(job)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
