"""Honesty gates: a student that does not learn is caught and named, never ranked."""

import math

from trainables.config import TrialConfig
from trainables.errors import TrialFailed
from trainables.evaluation import Scores

MARGIN = 0.005
"""mIoU by which a student must beat the commonest class alone."""


def check_finite(losses: dict[str, float], epoch: int, config: TrialConfig) -> None:
    """Raises TrialFailed where a mean loss is not finite."""
    for name, value in losses.items():
        if not math.isfinite(value):
            raise TrialFailed(
                f"not finite: loss {name} is {value} in epoch {epoch}; the learning rate "
                f"{config.recipe.optimizer.learning_rate:g} is likely too high"
            )


def grace_epochs(config: TrialConfig) -> int:
    """Epochs that a student may take to beat the commonest class."""
    return min(config.num_epochs, max(3, math.ceil(config.num_epochs / 4)))


def check_learning(
    scores: Scores, losses: list[dict[str, float]], epoch: int, config: TrialConfig
) -> None:
    """Raises TrialFailed where, after the grace period, the commonest class alone does as well."""
    baseline = scores.majority().miou
    if epoch < grace_epochs(config) or scores.miou > baseline + MARGIN:
        return
    raise TrialFailed(
        f"not learning: mIoU {scores.miou:.3f} after epoch {epoch}, predicting the commonest class "
        f"alone gives {baseline:.3f}; {likely_cause(scores, losses, config)}"
    )


def likely_cause(scores: Scores, losses: list[dict[str, float]], config: TrialConfig) -> str:
    rate = config.recipe.optimizer.learning_rate
    first, last = losses[0]["cross_entropy"], losses[-1]["cross_entropy"]
    if last > 1.1 * first or (last > 0.95 * first and rate > 1e-2):
        return f"cross-entropy went from {first:.3f} to {last:.3f}: learning rate {rate:g} too high"
    if last > 0.95 * first:
        return (
            f"cross-entropy went from {first:.3f} to {last:.3f}: learning rate {rate:g} too low, "
            "or labels that do not belong to the images"
        )
    common, share = scores.commonest_prediction
    if share > 0.95:
        return f"{share:.0%} of its pixels are class {common}: too few steps for rare classes"
    return f"cross-entropy only fell from {first:.3f} to {last:.3f}: too few steps"
