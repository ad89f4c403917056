"""Searches a space of its own with Optuna alone: no Ray, no MLflow, one trial after the other.

    python examples/own_space.py OUT

A space is a function from an Optuna trial to a TrialConfig. Saved as `spaces/NAME.py`, together
with `points_to_evaluate`, this one is searched by `python -m search.run --space NAME`, too.
"""

import sys
from pathlib import Path

import optuna

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.errors import TrialFailed
from trainables.data.packed import pack_dataset
from trainables.data.registry import ShapesSource
from trainables.training.defaults import defaults_for
from trainables.training.trial import Trial, save

points_to_evaluate = [
    {"student.width": width, "recipe.optimizer.learning_rate": 1e-2} for width in (4, 8)
]


def space(trial: optuna.Trial) -> TrialConfig:
    """A full-precision U-Net; each parameter is named by its path in the configuration."""
    return TrialConfig.model_validate(
        {
            "student": {
                "name": "unet",
                "width": trial.suggest_categorical("student.width", [4, 6, 8]),
                "depth": 3,
            },
            "recipe": {
                "name": "supervised",
                "optimizer": {
                    "learning_rate": trial.suggest_float(
                        "recipe.optimizer.learning_rate", 4e-3, 2e-2, log=True
                    )
                },
            },
        }
    )


def main(folder: Path) -> None:
    store = ArtifactStore(folder / "artifacts")
    data = pack_dataset(ShapesSource(image_size=32, num_train=128, num_val=32), store)
    run = ExecutionConfig(data=data.path, artifacts=store.root)
    defaults = defaults_for("shapes", run.device)

    def train(trial: optuna.Trial) -> tuple[float, float]:
        config = defaults.complete(space(trial), num_epochs=6, seed=trial.number)
        *_, last = save(Trial(config, run), folder / f"trial-{trial.number}")
        assert last.size_bytes is not None  # of the last epoch's file
        return last.miou, last.size_bytes

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for point in points_to_evaluate:
        study.enqueue_trial(point)
    study.optimize(train, n_trials=3, catch=TrialFailed)
    for trial in study.best_trials:
        miou, size_bytes = trial.values
        print(f"trial {trial.number}: mIoU {miou:.3f}, {size_bytes:.0f} bytes, {trial.params}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
