"""Stops dominated trials of a plain Ray Tune search: the scheduler works without the rest.

    python examples/scheduler_in_tune.py OUT

`train` stands for a training of any kind, which reports all objectives after each epoch.
"""

import sys
from pathlib import Path

import ray
from ray import tune

from search.execution.scheduler import ParetoHalving

EPOCHS = 27


def train(config: dict[str, float]) -> None:
    for epoch in range(EPOCHS):
        miou = config["quality"] * (epoch + 1) / EPOCHS
        tune.report({"miou": miou, "size_bytes": config["size_bytes"]})


def main(folder: Path) -> None:
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    scheduler = ParetoHalving({"miou": "max", "size_bytes": "min"}, max_epochs=EPOCHS)
    tuner = tune.Tuner(
        train,
        param_space={
            "size_bytes": tune.grid_search([1000, 2000]),
            "quality": tune.grid_search([0.9, 0.5, 0.1]),
        },
        tune_config=tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=str(folder.absolute()), verbose=0),
    )
    results = tuner.fit()
    for result in (results[index] for index in range(len(results))):
        assert result.config is not None
        assert result.metrics is not None
        epochs = result.metrics["training_iteration"]
        print(f"quality {result.config['quality']}: {epochs} epochs")
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
