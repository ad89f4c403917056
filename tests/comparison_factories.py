"""Arms of a comparison and the records of their trainings."""

from factories import make_metrics

from search.analysis.comparison_summary import ArmSummary, summarize
from search.core.comparison import Arm
from search.core.record import Record
from trainables.config import TrialConfig
from trainables.recipes.configs import Distill, Qat, Supervised

MIOUS = {
    "supervised": (0.50, 0.52, 0.54),
    "kd $a_1$": (0.51, 0.531, 0.549),
    "qat": (0.49, 0.53, None),
    "never": (None, None, None),
}
CLASS_IOU = {"supervised": [(0.5, 0.0), (0.5, 0.1), (0.5, 0.1)], "kd $a_1$": 3 * [(0.5, 0.1)]}
"""Of two classes, by seed; unknown for the other recipes."""
RECIPES = (Supervised(), Distill(), Qat(start_epochs=6), Distill(optimizer={"learning_rate": 1}))


def make_arms(num_seeds: int = 3) -> tuple[list[Arm], dict[str, Record]]:
    """Arms of four recipes, and records, of which those without an mIoU have failed."""
    arms, records = list[Arm](), dict[str, Record]()
    for (name, mious), recipe in zip(MIOUS.items(), RECIPES, strict=True):
        configs = tuple(
            TrialConfig(recipe=recipe, num_epochs=3 if name == "qat" else 9, seed=seed)
            for seed in range(num_seeds)
        )
        arms.append(Arm("unet 16", name, configs, arms[0] if arms else None))
        for config, miou, class_iou in zip(
            configs, mious, CLASS_IOU.get(name, 3 * [None]), strict=False
        ):
            metrics = (
                None
                if miou is None
                else make_metrics(miou, 61900, device_seconds=20, class_iou=class_iou)
            )
            state = "FAIL" if metrics is None else "COMPLETE"
            reason = "not learning: a | b" if metrics is None else ""
            records[config.digest()] = Record("", state, reason, config, metrics)
    return arms, records


def summaries(num_seeds: int = 3) -> list[ArmSummary]:
    return summarize(*make_arms(num_seeds))
