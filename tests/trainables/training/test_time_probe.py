"""The seconds of a step, which the expected time of a study is computed from."""

import pytest

from trainables.config import ExecutionConfig, TrialConfig
from trainables.models.configs import UNetConfig
from trainables.recipes.configs import Ptq, Qat, Supervised
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


def test_no_step_is_measured_behind_minutes_of_calibration(
    blocks_run: ExecutionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def takes_minutes(*arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr("trainables.recipes.quantized_start.learn_rounding", takes_minutes)
    recipe = Qat(calibration=("adaround",))
    config = TrialConfig(student=UNetConfig(width=4, depth=2), recipe=recipe, num_epochs=1)
    (seconds,) = measure_step_seconds(blocks_run, [config], [1])
    assert seconds > 0
