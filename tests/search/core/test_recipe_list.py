"""Recipes and students as people write them."""

import shutil
from pathlib import Path

import pytest

from search.core.recipe_list import (
    parse_compared_students,
    parse_recipe,
    parse_teacher,
    write_teacher,
)
from trainables.config import TrialConfig
from trainables.models.configs import UNetConfig
from trainables.recipes.configs import Distill, Qat, Recipe, Supervised


@pytest.mark.parametrize("name", Recipe.members())
def test_each_recipe_has_its_name(name: str) -> None:
    found = parse_recipe(name)
    assert (found.name, found.recipe.name, found.file) == (name, name, None)


def test_changes_are_made_by_dotted_paths() -> None:
    found = parse_recipe(
        "kd=distill losses.pixelwise.temperature=1 losses.pairwise.weight=3 "
        "optimizer.learning_rate=1e-3"
    )
    assert found.name == "kd"
    assert isinstance(found.recipe, Distill)
    assert found.recipe.optimizer.learning_rate == 1e-3
    terms = {name: term.model_dump() for name, term in found.recipe.losses.items()}
    assert terms == {
        "pixelwise": {
            "name": "pixelwise",
            "weight": 1,
            "temperature": 1,
            "where": "teacher_right",
            "class_weighted": True,
        },
        "pairwise": {"name": "pairwise", "weight": 3, "patch": 2},
    }


def test_a_term_is_taken_out_and_a_start_is_another_recipe() -> None:
    without = parse_recipe("distill losses.pixelwise=null losses.pairwise.weight=1").recipe
    assert list(without.distillation_terms) == ["pairwise"]
    quantized = parse_recipe('qat start.name=distill calibration=["equalization"]').recipe
    assert isinstance(quantized, Qat)
    assert quantized.start == parse_recipe("distill").recipe
    quantized = parse_recipe("qat start.name=original").recipe
    assert isinstance(quantized, Qat)
    assert quantized.start == parse_recipe("original").recipe
    assert parse_recipe("qat quantizer.weight_bits=2").name == "qat quantizer.weight_bits=2"


def test_a_file_brings_its_student_and_may_have_any_path(tmp_path: Path) -> None:
    config = TrialConfig(student=UNetConfig(width=5), recipe=Supervised(), num_epochs=7)
    path = tmp_path / "a = b" / "0007" / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text(config.model_dump_json())
    found = parse_recipe(str(path))
    assert (found.name, found.file) == ("0007", config)
    assert parse_recipe(f"mine={path}") == found.replace(name="mine")
    plain = shutil.copy(path, tmp_path / "plain.json")
    named = parse_recipe(f"slow={plain} optimizer.learning_rate=1e-4")
    assert named.name == "slow"
    assert parse_recipe(f"{plain} optimizer.learning_rate=1e-4").name.startswith("plain optimizer.")
    assert named.file == config.with_recipe(optimizer={"learning_rate": 1e-4})
    assert named.recipe == named.file.recipe


BAD = {
    "distil": "or a configuration file, but got 'distil'; did you mean distill",
    "": "each must be one of .*qat_distill, or a",
    "kd=": "or a configuration file, but got 'kd='",
    "kd=/no/config.json": "or a configuration file, but got '/no/config.json'",
    "distill losses.pixelwise": "must be PATH=VALUE, but got 'losses.pixelwise'",
    "distill lossses.pixelwise.weight=1": "lossses: Extra inputs are not permitted",
    "distill losses.pixelwize.weight=1": "losses.pixelwize: .*the name must be one of",
    "distill losses.pixelwise.weight=-1": "weight: .*greater than or equal to 0, but got -1",
    "distill losses.pixelwise.weight=much": "weight: .*valid number.*but got 'much'",
    "distill optimizer.learning_rate.peak=1": "learning_rate of .* must have parts, but is 0.004",
    "distill optimizer.learning_rate=NaN": "learning_rate: .*finite number",
    "qat name=ptq": "optimizer: Extra inputs",
}


@pytest.mark.parametrize("text", BAD)
def test_a_mistake_is_named_in_a_line(text: str) -> None:
    with pytest.raises(ValueError, match=BAD[text]) as raised:
        parse_recipe(text)
    assert "\n" not in str(raised.value)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json is not a valid TrialConfig: recipe"):
        parse_recipe(str(path))


def test_a_teacher_is_a_student_or_something_else(tmp_path: Path) -> None:
    assert parse_teacher("unet width=64") == UNetConfig(width=64)
    assert (
        parse_teacher("unet_resnet18:imagenet")
        == parse_compared_students("unet_resnet18:imagenet")[0]
    )
    for text in ("auto", "lraspp_mobilenet_v3_large", "/a/unet.safetensors", "C:unet"):
        assert parse_teacher(text) == text == write_teacher(text)
    assert write_teacher(UNetConfig(width=64)) == "unet 64"
    for text, message in (("unet:best", "only :imagenet may follow"), ("unet width=0", "width")):
        with pytest.raises(ValueError, match=message):
            parse_teacher(text)


def test_students_have_changes_too() -> None:
    found = parse_compared_students("unet,unet width=4 depth=2,unet_mobilenet_v2")
    assert [student.describe() for student in found[:2]] == ["unet 16", "unet 4 depth 2"]
    assert found[2].name == "unet_mobilenet_v2"
    refused = {"vnet": "but got 'vnet'", "unet width=0": "width: ", "": "one of"}
    for text, message in refused.items():
        with pytest.raises(ValueError, match=message):
            parse_compared_students(text)
