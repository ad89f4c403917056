"""Every space samples valid configurations, named by the paths that they set."""

import optuna
import pytest
from foreign_networks import traced_student
from optuna.distributions import FloatDistribution

from spaces import (
    LEARNING_RATE,
    ORIGINAL,
    U_NETS,
    NamedSpace,
    choose_students,
    load_space,
    own_students,
    space_names,
    with_co_study,
)
from trainables.config import TrialConfig
from trainables.models.configs import StudentConfig
from trainables.models.student_list import parse_students
from trainables.recipes.configs import Original, QatDistill, Supervised
from trainables.training.cost import predict_size_bytes


def test_the_spaces_are_found() -> None:
    assert set(space_names()) >= {
        "architecture",
        "supervised",
        "kd",
        "mixed",
        "mixed_qkd",
        "ptq",
        "qat",
        "qkd",
    }


@pytest.mark.parametrize("name", space_names())
def test_a_space_samples_valid_configurations(name: str) -> None:
    named = load_space(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    digests, settings = set(), set()
    for _ in range(50):
        trial = study.ask()
        config = named.space(trial)
        assert TrialConfig.model_validate_json(config.model_dump_json()) == config
        leaves = config.flatten()
        assert trial.params
        assert {name: leaves.get(name) for name in trial.params} == trial.params
        digests.add(config.digest())
        settings.add(tuple(trial.params.values()))
    assert len(digests) == len(settings) > 30


@pytest.mark.parametrize("name", space_names())
def test_known_settings_are_inside_the_space_and_tried_first(name: str) -> None:
    named = load_space(name)
    assert named.description
    assert named.points_to_evaluate
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for settings in named.points_to_evaluate:
        study.enqueue_trial(dict(settings))
    for settings in named.points_to_evaluate:
        trial = study.ask()
        leaves = named.space(trial).flatten()
        assert {name: leaves.get(name) for name in settings} == dict(settings)


def test_qkd_explores_all_that_it_promises() -> None:
    trial = optuna.create_study().ask()
    config = with_co_study(load_space("qkd"), wanted=True).space(trial)
    recipe = config.recipe
    assert isinstance(recipe, QatDistill)
    assert recipe.schedule == "cosine"
    assert recipe.start.learns_from_teacher
    for part in (
        "student.width",
        "optimizer.learning_rate",
        "step_learning_rate.weight",
        "step_learning_rate.activation",
        "weight_bits",
        "activation_bits",
        "pixelwise.weight",
        "pixelwise.temperature",
        "extra.name",
        "self_study",
        "co_study",
    ):
        assert any(name.endswith(part) for name in trial.params), part


@pytest.mark.parametrize("name", ["kd", "qkd"])
def test_a_teacher_s_weight_and_temperature_stay_where_labels_can_win(name: str) -> None:
    trial = optuna.create_study().ask()
    load_space(name).space(trial)
    ranges = {path: (d.low, d.high) for path, d in trial.distributions.items() if hasattr(d, "low")}
    of_terms = {path: r for path, r in ranges.items() if ".losses." in path}
    assert of_terms["recipe.losses.pixelwise.weight"] == (0.1, 3)
    for path, (low, high) in of_terms.items():
        assert (low, high) in ((0.1, 3), (1, 4)), path


def test_a_phase_in_which_the_teacher_learns_has_to_be_wanted() -> None:
    trial = optuna.create_study().ask()
    config = with_co_study(load_space("qkd"), wanted=False).space(trial)
    assert "recipe.co_study" not in trial.params
    assert config.flatten()["recipe.co_study"] == 0
    with pytest.raises(ValueError, match="--co-study must be for a space that has that phase"):
        with_co_study(load_space("kd"), wanted=True)


def test_known_sizes_differ() -> None:
    named, sizes = load_space("qkd"), []
    study = optuna.create_study()
    for settings in named.points_to_evaluate:
        study.enqueue_trial(dict(settings))
        sizes.append(predict_size_bytes(named.space(study.ask()), 21))
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


def test_an_unknown_space_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"but got .qdk.; did you mean .*qkd"):
        load_space("qdk")


STUDENTS = parse_students("unet,deeplabv3_mobilenet_v2,unet_resnet18:imagenet")


@pytest.mark.parametrize("name", space_names())
def test_a_space_chooses_among_students_and_asks_for_their_fields_alone(name: str) -> None:
    named = choose_students(load_space(name), STUDENTS)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    asked: dict[str, set[str]] = {}
    for _ in range(40):
        trial = study.ask()
        config = named.space(trial)
        leaves = config.flatten()
        assert {name: leaves.get(name) for name in trial.params} == trial.params
        fields = {path for path in trial.params if path.startswith("student.")}
        asked.setdefault(config.student.name, set()).update(fields)
        assert leaves.get("student.weights") == (
            "imagenet" if config.student.name == "unet_resnet18" else None
        )
    depth = {"student.depth"} if name == "supervised" else set[str]()
    assert asked == {
        "unet": {"student.name", "student.width", *depth},
        "deeplabv3_mobilenet_v2": {"student.name", "student.multiplier", "student.channels"},
        "unet_resnet18": {"student.name", "student.channels", "student.encoder_depth"},
    }


@pytest.mark.parametrize("name", space_names())
@pytest.mark.parametrize("text", ["unet,deeplabv3_mobilenet_v2", "lraspp_mobilenet_v3_small"])
def test_each_student_is_tried_first_with_known_settings(name: str, text: str) -> None:
    students = parse_students(text)
    named = choose_students(load_space(name), students)
    assert len(named.points_to_evaluate) == 2 + len(students)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for settings in named.points_to_evaluate:
        study.enqueue_trial(dict(settings))
    tried = []
    for settings in named.points_to_evaluate:
        config = named.space(study.ask())
        leaves = config.flatten()
        assert {name: leaves.get(name) for name in settings} == dict(settings)
        tried.append(config.student.name)
    assert set(tried) == {student.name for student in students}


@pytest.mark.parametrize("name", space_names())
def test_unets_alone_have_the_parameters_that_they_always_had(name: str) -> None:
    named = load_space(name)
    alone = choose_students(named, U_NETS)
    assert (alone is named) == (own_students(named.space) == U_NETS)
    trial = optuna.create_study().ask()
    alone.space(trial)
    fields = [path for path in trial.params if path.startswith("student.")]
    assert fields == ["student.width", "student.depth"][: 2 if name == "supervised" else 1]


def test_a_space_with_students_of_its_own_takes_no_others() -> None:
    def space(trial: optuna.Trial) -> TrialConfig:
        return TrialConfig(recipe=Supervised())

    own = NamedSpace("own", "of one student", space, [{}])
    assert choose_students(own, U_NETS) is own
    with pytest.raises(ValueError, match="--students must be for a space that takes them, but spa"):
        choose_students(own, STUDENTS)


def test_architecture_suggests_of_each_family_its_own_fields() -> None:
    named = load_space("architecture")
    study, fields = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)), {}
    for _ in range(60):
        trial = study.ask()
        student = named.space(trial).student
        fields[student.name] = {name for name in trial.params if name.startswith("student.")}
    assert len(fields) == len(own_students(named.space)) == 8
    assert fields["unet"] == {"student.name", "student.width"}
    backbone = {"student.name", "student.multiplier", "student.channels"}
    assert fields["deeplabv3_mobilenet_v2"] == backbone
    of_unet = {*backbone, "student.encoder_depth"}
    for name in fields.keys() - {"unet"}:
        assert fields[name] == (of_unet if name.startswith("unet_") else backbone)


def test_architecture_tries_a_known_setting_of_each_family() -> None:
    named = load_space("architecture")
    chosen = choose_students(named, own_students(named.space))
    tried = [point["student.name"] for point in chosen.points_to_evaluate]
    assert sorted(set(tried)) == sorted(s.name for s in own_students(named.space))
    study = optuna.create_study()
    for settings in chosen.points_to_evaluate:
        study.enqueue_trial(dict(settings))
        leaves = chosen.space(study.ask()).flatten()
        assert {name: leaves.get(name) for name in settings} == dict(settings)
    alone = choose_students(named, U_NETS).space(study.ask())
    assert alone.student.name == "unet"


@pytest.mark.parametrize("name", space_names())
def test_a_network_that_came_trained_is_quantized_as_it_is(name: str) -> None:
    student = traced_student()
    space = choose_students(load_space(name), (student,)).space
    study = optuna.create_study()
    study.enqueue_trial({}, user_attrs={ORIGINAL: "foreign"})
    original = study.ask()
    assert space(original) == TrialConfig(student=student, recipe=Original(), num_epochs=1)
    assert original.params == {}
    for _ in range(5):
        config = space(study.ask())
        assert config.student == student
        if config.recipe.quantized:
            assert config.recipe.quantized.start == Original()
            assert config.start
            assert config.start.num_epochs == 1
        assert "student.graph" not in config.flatten()
        assert "student.weights" in config.flatten()
    untrained = student.replace(new_head=True)
    config = choose_students(load_space(name), (untrained,)).space(study.ask())
    assert config.recipe.quantized is None or config.recipe.quantized.start != Original()


@pytest.mark.parametrize("name", space_names())
def test_a_network_that_came_trained_is_pruned_where_that_is_wanted(name: str) -> None:
    student = traced_student()
    named = choose_students(load_space(name), (student, *U_NETS), (0.35, 0.5, 1.0))
    first = [point.get("student.keep") for point in named.points_to_evaluate]
    assert first == [1.0] * (len(first) - 3) + [0.5, 0.35, None]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial({}, user_attrs={ORIGINAL: "foreign"})
    original = named.space(study.ask())
    assert (original.student, original.recipe) == (student, Original())
    for settings in named.points_to_evaluate:
        study.enqueue_trial(dict(settings))
    kept = set()
    for _ in range(12):
        trial = study.ask()
        config = named.space(trial)
        leaves = config.flatten()
        assert {path: leaves.get(path) for path in trial.params} == trial.params
        if config.student.name == "unet":
            assert "student.keep" not in trial.params
            continue
        kept.add(trial.params["student.keep"])
        assert config.student == student.replace(keep=trial.params["student.keep"])
        if quantized := config.recipe.quantized:
            assert (quantized.start == Original()) == (config.student == student)
    assert kept == {0.35, 0.5, 1.0}


def test_a_network_with_a_new_classifier_is_pruned_too() -> None:
    student = traced_student().replace(new_head=True)
    named = choose_students(load_space("qat"), (student,), (0.5,))
    assert [point["student.keep"] for point in named.points_to_evaluate] == [0.5] * 3
    config = named.space(optuna.create_study().ask())
    assert config.student == student.replace(keep=0.5)


@pytest.mark.parametrize("name", [name for name in space_names() if name != "ptq"])
def test_what_was_learned_before_is_trained_with_lower_rates(name: str) -> None:
    def rates(*students: StudentConfig) -> tuple[float, float]:
        trial = optuna.create_study().ask()
        choose_students(load_space(name), students).space(trial)
        found = trial.distributions["recipe.optimizer.learning_rate"]
        assert isinstance(found, FloatDistribution)
        return found.low, found.high

    low, high = rates(*U_NETS)
    assert rates(*parse_students("unet,unet_resnet18")) == (low, high)
    assert rates(*parse_students("unet,unet_resnet18:imagenet")) == (low / 10, high)
    assert rates(traced_student()) == (low / 50, high / 10)
    points = zip(
        load_space(name).points_to_evaluate,
        choose_students(load_space(name), (traced_student(),)).points_to_evaluate,
        strict=True,
    )
    for known, adapted in points:
        assert (LEARNING_RATE in adapted) == (LEARNING_RATE in known)
        if LEARNING_RATE in known:
            assert adapted[LEARNING_RATE] == known[LEARNING_RATE] / 10
            assert low / 50 <= adapted[LEARNING_RATE] <= high / 10
    assert rates(traced_student().replace(new_head=True)) == (low / 10, high)
