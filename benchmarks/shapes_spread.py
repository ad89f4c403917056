"""How much a student's width and the length of its training matter on the built-in data.

python -m benchmarks.shapes_spread --artifacts DIR
"""

import argparse
from pathlib import Path

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.data.packed import pack_dataset
from trainables.data.registry import ShapesSource
from trainables.models.configs import UNetConfig
from trainables.recipes.configs import Supervised
from trainables.training.defaults import defaults_for
from trainables.training.trial import Trial

WIDTHS, EPOCHS = (4, 8, 16), (8, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=Path, default=Path("studies/artifacts"))
    store = ArtifactStore(parser.parse_args().artifacts)
    defaults = defaults_for("shapes", "cpu")
    data = pack_dataset(ShapesSource(defaults.image_size), store)
    run = ExecutionConfig(data=data.path, artifacts=store.root)
    print("| width | " + " | ".join(f"{n} epochs" for n in EPOCHS) + " |")
    print("|---" * (len(EPOCHS) + 1) + "|")
    for width in WIDTHS:
        cells = []
        for num_epochs in EPOCHS:
            config = TrialConfig(
                student=UNetConfig(width=width),
                recipe=Supervised(),
                augmentation=defaults.augmentation,
                num_epochs=num_epochs,
                batch_size=defaults.batch_size,
            )
            last = list(Trial(config, run))[-1]
            cells.append(f"{100 * last.miou:.1f} ({last.device_seconds:.0f} s)")
        print(f"| {width} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
