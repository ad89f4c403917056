"""How long a study is expected to take, from steps that are measured without a teacher."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from factories import make_config

from search.core.networks import compressed_network
from search.execution.resources import TrialResources
from search.study.expected_time import (
    CHECKS,
    EVALUATION,
    JUDGED,
    ExpectedTime,
    expect_time,
    taught_share,
)
from search.study.preparation import prepare_study
from trainables.config import ExecutionConfig, TrialConfig
from trainables.recipes.configs import Distill, QatDistill, Recipe, Supervised


class Measured:
    """A worker on which each step takes a second."""

    share = TrialResources(cpus=1, gpus=0)
    hardware = "here"

    def __init__(self) -> None:
        self.num_measured = 0

    def __call__(
        self, run: ExecutionConfig, measure: object, configs: Sequence[TrialConfig], _: object
    ) -> list[float]:
        self.num_measured += len(configs)
        return [1.0] * len(configs)


def test_steps_with_unlabelled_images_take_twice_as_long(
    blocks_folder: Path, unlabelled_folder: Path, tmp_path: Path
) -> None:
    found = {}
    for unlabelled in (None, unlabelled_folder):
        name = "with" if unlabelled else "without"
        config = make_config(tmp_path, blocks_folder, space="kd", name=name, unlabelled=unlabelled)
        study = prepare_study(config, resumed=False)
        run = ExecutionConfig(data=study.data.path, artifacts=study.store.root)
        expected = expect_time(study, Measured(), run, 1, print)  # type: ignore[arg-type]
        study.lock.release()
        assert expected is not None
        found[name] = expected.trial_s
        num_evaluated = min(JUDGED, study.teacher_epochs) + CHECKS
        assert expected.teacher_s == pytest.approx(
            8 * study.teacher_epochs + EVALUATION * num_evaluated * 24 / 8
        )
    assert found == {
        "without": pytest.approx(2 * 8 + EVALUATION * (2 + CHECKS) * 24 / 8),
        "with": pytest.approx(2 * 2 * 8 + EVALUATION * (2 + CHECKS) * 24 / 8),
    }


def test_a_step_is_measured_once_on_the_same_hardware(blocks_folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    study = prepare_study(make_config(tmp_path, blocks_folder, space="kd"), resumed=False)
    study.lock.release()
    run = ExecutionConfig(data=study.data.path, artifacts=study.store.root)
    first, again, elsewhere = Measured(), Measured(), Measured()
    elsewhere.hardware = "there"
    expected = [
        expect_time(study, worker, run, 1, said.append)  # type: ignore[arg-type]
        for worker in (first, again, elsewhere)
    ]
    assert expected == expected[:1] * 3
    assert (first.num_measured, again.num_measured, elsewhere.num_measured) == (2, 0, 2)
    assert said == ["measuring how long a training step takes"] * 2


def test_a_student_that_is_only_calibrated_is_evaluated(
    blocks_folder: Path, tmp_path: Path
) -> None:
    config = make_config(tmp_path, blocks_folder, space="ptq")
    study = prepare_study(config, resumed=False)
    run = ExecutionConfig(data=study.data.path, artifacts=study.store.root)
    expected = expect_time(study, Measured(), run, 1, print)  # type: ignore[arg-type]
    study.lock.release()
    assert expected is not None
    assert expected.trial_s == (1 + CHECKS) * 24 / 8  # each batch takes a second


def test_a_network_that_is_compressed_teaches_by_images_and_mirror_images(
    foreign_file: Path, blocks_folder: Path, tmp_path: Path
) -> None:
    named = {"compress": str(foreign_file), "builder": "foreign_networks:foreign"}
    config = make_config(tmp_path, blocks_folder, space="qkd", **named)
    network = compressed_network(config)
    assert network is not None
    config = config.replace(students=(network.student(),))
    study = prepare_study(config, resumed=False)
    run = ExecutionConfig(data=study.data.path, artifacts=study.store.root)
    expected = expect_time(study, Measured(), run, 1, print)  # type: ignore[arg-type]
    study.lock.release()
    assert expected is not None
    assert expected.teacher_s == 2 * (len(study.data.train) + len(study.data.val)) / 8


@pytest.mark.parametrize(
    ("recipe", "share"),
    [(Supervised(), 0), (Distill(), 1), (QatDistill(self_study=0.3, co_study=0.2), 0.7)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_share_of_steps_with_a_teacher_is_that_after_self_study(
    recipe: Recipe, share: float
) -> None:
    assert taught_share(recipe) == pytest.approx(share)


def test_calibration_that_takes_minutes_is_named() -> None:
    expected = ExpectedTime(0, 0, 0, 4, 10, 2, halving=False)
    with_adaround = replace(expected, adaround=True)
    assert str(expected).endswith("about 20 s in all")
    assert str(with_adaround).endswith(
        "about 20 s in all, and minutes of --calibration adaround for each"
    )


@pytest.mark.parametrize(("num_parallel", "total_s"), [(1, 100), (2, 50), (4, 30)])
def test_starts_are_trained_side_by_side(num_parallel: int, total_s: float) -> None:
    expected = ExpectedTime(0, 3, 20, 4, 10, num_parallel, halving=False)
    assert expected.total_s == total_s
