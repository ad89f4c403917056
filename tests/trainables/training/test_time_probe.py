"""The seconds of a step, which the expected time of a study is computed from."""

from trainables.config import ExecutionConfig, TrialConfig
from trainables.models.configs import UNetConfig
from trainables.recipes.configs import Ptq, Supervised
from trainables.training.time_probe import measure_step_seconds


def test_a_student_that_is_only_calibrated_predicts_faster_than_another_trains(
    blocks_run: ExecutionConfig,
) -> None:
    student = UNetConfig(width=8, depth=3)
    configs = [
        TrialConfig(student=student, recipe=recipe, num_epochs=1)
        for recipe in (Ptq(), Supervised())
    ]
    predicts, trains = measure_step_seconds(blocks_run, configs, [1, 1])
    assert 0 < predicts < trains
