"""What a comparison trains: equal steps, paired seeds, shared starts."""

from pathlib import Path

import pytest
import torch
from foreign_networks import traced_student

from search.core.comparison import (
    OWN_FIELDS,
    Arm,
    default_epochs,
    default_students,
    own_epochs,
    plan_arms,
    plan_trainings,
    start_epochs,
    trained_epochs,
)
from search.core.comparison_config import ComparisonConfig
from search.core.recipe_list import parse_compared_students, parse_recipe
from trainables.config import ExecutionConfig, TrialConfig
from trainables.data.configs import Augmentation
from trainables.models.configs import UNetConfig
from trainables.recipes.configs import Distill, Ptq, Qat, Recipe, Supervised
from trainables.training.defaults import defaults_for
from trainables.training.task import TrialTask

NAMES = [name for name, recipe in Recipe.members().items() if not recipe.is_reference]
DEFAULTS = defaults_for("shapes", "cpu")
NETWORKS = (
    *("compress", "builder", "new_head", "allow_float", "backbone_weights"),
    *("pretrained_normalization", "teacher_builder", "teacher_normalization"),
)
"""Fields that say where networks of the user come from, which earlier comparisons do not have."""


def make_comparison(*recipes: str, **changes: object) -> ComparisonConfig:
    fixed = {
        "recipes": tuple(map(parse_recipe, recipes)),
        "students": parse_compared_students("unet width=3 depth=2"),
        "image_size": 32,
        "epochs": 9,
        "seeds": 2,
        "name": "compared",
        "gpus_per_trial": 0,
        "tracking_uri": "sqlite:///none.db",
    }
    return ComparisonConfig.model_validate({**fixed, **changes})


def plan(*recipes: str, **changes: object) -> list[Arm]:
    return plan_arms(make_comparison(*recipes, **changes), DEFAULTS)


def write_config(folder: Path, name: str, config: TrialConfig) -> str:
    path = folder / f"{name}.json"
    path.write_text(config.model_dump_json())
    return str(path)


@pytest.mark.parametrize("epochs", [2, 3, 24, 31])
def test_all_students_are_trained_for_as_many_epochs(epochs: int) -> None:
    for arm in plan(*NAMES, epochs=epochs):
        assert {trained_epochs(config) for config in arm.configs} == {epochs}


def test_a_quantized_recipe_is_divided_as_in_a_search() -> None:
    (qat, ptq) = (arm.configs[0] for arm in plan("qat", "ptq"))
    assert (start_epochs(qat), own_epochs(qat)) == (6, 3)
    assert (start_epochs(ptq), own_epochs(ptq)) == (9, 0)
    changed = plan("supervised", "qat start_epochs=2")[1].configs[0]
    assert (start_epochs(changed), own_epochs(changed)) == (2, 7)


def test_trainings_differ_in_recipe_length_and_seed_alone() -> None:
    configs = [config for arm in plan(*NAMES) for config in arm.configs]
    common = [config.model_dump(exclude=set(OWN_FIELDS)) for config in configs]
    assert all(each == common[0] for each in common)
    assert common[0]["augmentation"] == DEFAULTS.augmentation.model_dump()
    assert [config.seed for config in configs] == [0, 1] * len(NAMES)


def test_a_network_that_came_trained_is_quantized_as_it_is() -> None:
    students = (traced_student(),)
    arms = {arm.recipe: arm.configs for arm in plan("original", *NAMES, students=students)}
    lengths = {name: (start_epochs(c[0]), own_epochs(c[0])) for name, c in arms.items()}
    trained = {"supervised", "distill", "qat", "qat_distill"}
    assert lengths == {name: (0, 9 if name in trained else 0) for name in ("original", *NAMES)}
    for name in ("qat", "qat_distill", "ptq"):
        assert arms[name][1].start == arms["original"][1]
    # a start that is asked for is trained
    for text, expected in {"qat start.name=distill": (6, 3), "qat start_epochs=2": (2, 7)}.items():
        config = plan("supervised", text, students=students)[1].configs[0]
        assert (start_epochs(config), own_epochs(config)) == expected
    # and so is a network whose classifier is new
    config = plan("supervised", "qat", students=(students[0].replace(new_head=True),))[1].configs[0]
    assert (start_epochs(config), own_epochs(config)) == (6, 3)


LOWER = "qat quantizer.weight_bits=2"


def test_a_seed_has_one_start_which_quantized_recipes_share() -> None:
    arms = {arm.recipe: arm for arm in plan("supervised", "qat", LOWER, "qat_distill", "ptq")}
    for seed in range(2):
        starts = {name: arm.configs[seed].start for name, arm in arms.items()}
        assert starts["qat"] == starts[LOWER]
        assert starts["qat"] is not None
        # as in a search, a student that has a teacher is distilled before it is quantized
        assert starts["qat_distill"] is not None
        assert isinstance(starts["qat_distill"].recipe, Distill)
        assert starts["qat"].seed == seed
        # what is only calibrated starts from the reference itself
        assert starts["ptq"] == arms["supervised"].configs[seed]
    trainings = plan_trainings(list(arms.values()))
    assert len(trainings) == 2 * (5 + 2)
    assert len({config.digest() for config in trainings.values()}) == len(trainings)
    assert "unet 3 depth 2, start of qat, seed 1" in trainings


def test_a_seed_has_the_same_weights_order_and_views_for_every_recipe(
    blocks_run: ExecutionConfig,
) -> None:
    arms = plan("supervised", "distill", "qat")
    first, *others = (TrialTask(arm.configs[1], blocks_run) for arm in arms)
    for other in others:
        for mine, theirs in zip(first.batches(2), other.batches(2), strict=True):
            assert torch.equal(mine.images, theirs.images)
            assert torch.equal(mine.labels, theirs.labels)
        weights = other.new_student().state_dict()
        assert all(
            torch.equal(value, weights[key])
            for key, value in first.new_student().state_dict().items()
        )
    another = TrialTask(arms[0].configs[0], blocks_run)
    assert not torch.equal(next(first.batches(2)).images, next(another.batches(2)).images)


def test_each_student_has_its_reference() -> None:
    arms = plan("supervised", "qat", students=parse_compared_students("unet,unet width=4"))
    assert [arm.name for arm in arms] == [
        "unet 16, supervised",
        "unet 16, qat",
        "unet 4, supervised",
        "unet 4, qat",
    ]
    assert [arm.reference for arm in arms] == [None, arms[0], None, arms[2]]


def test_files_bring_students_and_conditions(tmp_path: Path) -> None:
    shared = {"augmentation": Augmentation(flip=0), "batch_size": 6}
    points = [
        TrialConfig(
            student=UNetConfig(width=width),
            recipe=Qat(start_epochs=6),
            num_epochs=4,
            seed=5,
            **shared,  # type: ignore[arg-type]
        )
        for width in (4, 8)
    ]
    files = [write_config(tmp_path, f"point{n}", point) for n, point in enumerate(points)]
    recipes = [parse_recipe(text) for text in ("supervised", *files)]
    epochs, students = default_epochs(recipes, DEFAULTS, 256, None), default_students(recipes)
    assert (epochs, [student.describe() for student in students]) == (10, ["unet 4", "unet 8"])
    arms = plan("supervised", *files, epochs=epochs, students=students)
    assert [arm.name for arm in arms] == [
        "unet 4, supervised",
        "unet 4, point0",
        "unet 8, supervised",
        "unet 8, point1",
    ]
    assert arms[3].configs[0] == points[1].replace(seed=0)
    for arm in arms:
        assert trained_epochs(arm.configs[1]) == 10
        assert arm.configs[1].batch_size == 6
        assert arm.configs[1].augmentation.flip == 0
    # the first recipe is the reference of all where it has a student of its own
    arms = plan(*files, epochs=20, students=students)
    assert [arm.reference for arm in arms] == [None, arms[0]]
    assert (start_epochs(arms[0].configs[0]), own_epochs(arms[0].configs[0])) == (12, 8)
    arms = plan(*files[:1], "supervised", students=parse_compared_students("unet"))
    assert [arm.reference for arm in arms[1:]] == [arms[0], arms[0]]


def test_without_files_the_length_is_that_of_a_quantized_trial_with_its_start() -> None:
    recipes = [parse_recipe("supervised"), parse_recipe("qat")]
    assert default_epochs(recipes, DEFAULTS, 256, None) == 24
    assert [student.describe() for student in default_students(recipes)] == ["unet 16"]


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--epochs must be at least 2 for qat, .* but got 1"):
        plan("supervised", "qat", epochs=1)
    for text, given in {"qat start_epochs=9": 9, "ptq start_epochs=2": 2}.items():
        with pytest.raises(ValueError, match=f"start_epochs of .*, but got {given} of 9"):
            plan("supervised", text)
    with pytest.raises(ValueError, match="original: recipe original must be for a network that"):
        plan("supervised", "original")
    with pytest.raises(ValueError, match=r"recipe.quantizer must name bits to train with"):
        plan("supervised", 'qat quantizer={"name":"allocation"}')
    with pytest.raises(ValueError, match="each must have its own name, as NAME=qat"):
        plan("qat", "qat")
    files = [
        write_config(tmp_path, f"b{size}", TrialConfig(recipe=Supervised(), batch_size=size))
        for size in (4, 8)
    ]
    with pytest.raises(ValueError, match="must have one batch_size, but b4 has 4 and b8 has 8"):
        plan(*files)


def test_a_file_that_only_calibrates_gets_a_start_of_the_whole_length(tmp_path: Path) -> None:
    point = TrialConfig(recipe=Ptq(start_epochs=4), num_epochs=1)
    arms = plan(write_config(tmp_path, "point", point), "supervised", epochs=8)
    assert (start_epochs(arms[0].configs[0]), own_epochs(arms[0].configs[0])) == (8, 0)


def test_seeds_and_place_do_not_change_what_is_compared(tmp_path: Path) -> None:
    point = TrialConfig(recipe=Ptq(start_epochs=4), num_epochs=1, student=UNetConfig(width=5))
    config = make_comparison("supervised", "qat", write_config(tmp_path, "point", point))
    same = config.replace(seeds=7, storage=tmp_path, name="other")
    assert same.identity == config.identity
    assert config.replace(epochs=8).identity != config.identity
    again = ComparisonConfig.model_validate_json(config.model_dump_json())
    assert (again, again.identity) == (config, config.identity)
    assert again.recipes[2].file == point


def test_networks_of_the_user_leave_the_identity_of_other_comparisons_as_it_was() -> None:
    config = make_comparison("supervised", "qat")
    assert config.identity == "6c5d10158b00c603"
    before = config.model_dump(mode="json", exclude=set(NETWORKS))
    old = ComparisonConfig.model_validate(before)
    assert (old, old.identity) == (config, config.identity)
    # a network is its student, by the hash of its weights, wherever its file lies
    changes: list[dict[str, object]] = [
        {"compress": "/a/net.pth", "builder": "a:b", "allow_float": True},
        {"backbone_weights": (Path("/a/w.pth"),), "pretrained_normalization": "unit"},
    ]
    assert {config.replace(**change).identity for change in changes} == {config.identity}
    teacher = config.replace(teacher="/a/net.pth")
    built = teacher.replace(teacher_builder="a:b")
    normalized = built.replace(teacher_normalization="unit")
    student = config.replace(students=(traced_student(),))
    other = config.replace(students=(traced_student().replace(weights="1" * 16),))
    found = [c.identity for c in (config, teacher, built, normalized, student, other)]
    assert len(set(found)) == len(found)
