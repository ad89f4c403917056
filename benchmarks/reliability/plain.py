"""The same kills for Ray Tune, Optuna and MLflow, combined as documented.

    python -m benchmarks.reliability.plain --kills 40 --out plain.jsonl

Tune's OptunaSearch on Optuna's own durable storage, Tune's MLflowLoggerCallback, a checkpoint with
each report, retries, and `Tuner.restore` after a kill. Its trainings sleep, which leaves it less to
lose than the real ones of `sweep`.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from benchmarks.reliability.moments import RANDOM, Watched

NUM_TRIALS = 6
NUM_EPOCHS = 4
EPOCH_S = 1.0
LONGEST_S = 35.0
TRIALS = "trials"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--search", type=Path, help="run or restore one search in this folder")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--kills", type=int, default=40, help="in all")
    parser.add_argument("--kills-per-study", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.search:
        search(arguments.search, arguments.workers)
        return
    log: Path = arguments.out
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    while sum(row["kills"] for row in rows) < arguments.kills:
        rows.append(run_study(len(rows), arguments.kills_per_study))
        with log.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(json.dumps(rows[-1]), flush=True)
    for workers in (1, 2):
        own = [row for row in rows if row["workers"] == workers]
        problems = [problem for row in own for problem in row["problems"]]
        print(f"{workers} at a time: {len(own)} searches, {sum(row['kills'] for row in own)} kills")
        for problem, times in Counter(problem.split(": ")[0] for problem in problems).items():
            print(f"- {times} {problem}")


def search(folder: Path, workers: int) -> None:
    """What a user writes, from the documentation of the three."""
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search.optuna import OptunaSearch

    def train(config: dict[str, float]) -> None:
        epoch = 0
        if (checkpoint := tune.get_checkpoint()) is not None:
            with checkpoint.as_directory() as kept:
                epoch = int((Path(kept) / "epoch").read_text())
        for number in range(epoch + 1, NUM_EPOCHS + 1):
            time.sleep(EPOCH_S)
            with tempfile.TemporaryDirectory() as kept:
                (Path(kept) / "epoch").write_text(str(number))
                tune.report(
                    {"miou": config["rate"] * number, "size": config["width"], "epoch": number},
                    checkpoint=tune.Checkpoint.from_directory(kept),
                )

    ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    if tune.Tuner.can_restore(str(folder / TRIALS)):
        tuner = tune.Tuner.restore(
            str(folder / TRIALS), trainable=train, resume_unfinished=True, resume_errored=True
        )
    else:
        tuner = tune.Tuner(
            train,
            param_space={"rate": tune.loguniform(1e-4, 1e-1), "width": tune.uniform(4, 32)},
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(
                    metric=["miou", "size"],
                    mode=["max", "min"],
                    storage=storage_of(folder),
                    study_name="study",
                    seed=0,
                ),
                num_samples=NUM_TRIALS,
                max_concurrent_trials=workers,
            ),
            run_config=tune.RunConfig(
                name=TRIALS,
                storage_path=str(folder),
                failure_config=tune.FailureConfig(max_failures=3),
                callbacks=[
                    MLflowLoggerCallback(
                        tracking_uri=uri_of(folder), experiment_name="study", save_artifact=False
                    )
                ],
            ),
        )
    tuner.fit()


def run_study(number: int, num_kills: int) -> dict[str, Any]:
    """One search, killed so many times, and the contradictions between its records."""
    random_, workers = random.Random(number), 1 + number % 2
    folder, kills = Path(tempfile.mkdtemp(prefix="plain-")), 0
    argv = [sys.executable, "-m", "benchmarks.reliability.plain", "--search", str(folder)]
    try:
        while True:
            driver = Watched([*argv, "--workers", str(workers)], folder / TRIALS, kills > 0)
            if kills == num_kills:
                driver.finish()
                break
            if not driver.kill_at(RANDOM, random_.uniform(0, LONGEST_S)):
                break
            kills += 1
            time.sleep(3)
        problems = driver.problems()
        try:
            problems += violations(folder)
        except SQLAlchemyError as error:
            problems.append(f"MLflow's store cannot be opened any more: {error}")
        return {"study": number, "workers": workers, "kills": kills, "problems": problems}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def storage_of(folder: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(folder / "optuna.log")))


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def violations(folder: Path) -> Iterator[str]:
    """The same checks as for studies of this project."""
    trials = optuna.load_study(study_name="study", storage=storage_of(folder)).get_trials()
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            yield f"Optuna trials RUNNING for ever: {trial.number}"
    for _ in range(abs(len(trials) - NUM_TRIALS)):
        yield f"Optuna trials too many or too few: {len(trials)}"
    seen = Counter(json.dumps(trial.params, sort_keys=True) for trial in trials)
    for params, times in seen.items():
        if times > 1:
            yield f"configurations twice: {params}"
    client = MlflowClient(uri_of(folder))
    experiments = [e.experiment_id for e in client.search_experiments() if e.name == "study"]
    runs = client.search_runs(experiments)
    for _ in range(abs(len(runs) - NUM_TRIALS)):
        yield f"MLflow runs too many or too few: {len(runs)}"
    for run in runs:
        if run.info.status == "RUNNING":
            yield f"MLflow runs RUNNING for ever: {run.info.run_id}"
        history = client.get_metric_history(run.info.run_id, "epoch")
        if [metric.value for metric in history] != list(range(1, NUM_EPOCHS + 1)):
            yield f"MLflow runs with epochs missing or twice: {[m.value for m in history]}"


if __name__ == "__main__":
    main()
