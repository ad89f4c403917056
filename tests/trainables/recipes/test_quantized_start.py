"""Calibration as an option of every recipe that quantizes."""

import copy

import pytest
import torch
from calibration_networks import random_images
from factories import ShortTask
from pydantic import ValidationError
from torch import nn

from trainables.config import ExecutionConfig, TrialConfig
from trainables.models.configs import UNetConfig
from trainables.models.model_file import ModelSpec, deserialize, serialize
from trainables.quantization.quantizers.configs import Codebook, Dorefa, Lsq
from trainables.recipes.configs import Ptq, Qat, QatDistill, QuantizedRecipe
from trainables.recipes.quantized_start import quantize

BITS = Lsq(weight_bits=3, activation_bits=8)
STUDENT = UNetConfig(width=3, depth=2)
RECIPES: list[type[QuantizedRecipe]] = [Ptq, Qat, QatDistill]


@pytest.fixture(autouse=True)
def short_adaround(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.quantization.adaround.NUM_STEPS", 200)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_calibration_without_steps_is_not_written(recipe: type[QuantizedRecipe]) -> None:
    assert "calibration" not in recipe().model_dump(mode="json")
    stepwise = recipe(calibration=("adaround",))
    config = TrialConfig(recipe=stepwise, num_epochs=1)
    assert config.model_dump(mode="json")["recipe"]["calibration"] == ["adaround"]
    assert config.flatten()["recipe.calibration"] == '["adaround"]'
    assert TrialConfig.model_validate_json(config.model_dump_json()) == config
    assert config.digest() != TrialConfig(recipe=recipe(), num_epochs=1).digest()


def test_adaptive_rounding_needs_weights_that_stay_on_the_grid() -> None:
    assert Qat(quantizer=Codebook(), calibration=("adaround",)).calibration
    with pytest.raises(ValidationError, match="on the grid, but got the quantizer dorefa"):
        Qat(quantizer=Dorefa(), calibration=("adaround",))
    assert Qat(quantizer=Codebook(), dampening=1e-2).dampening
    with pytest.raises(ValidationError, match="on the grid, but got the quantizer dorefa"):
        Qat(quantizer=Dorefa(), dampening=1e-2)
    with pytest.raises(ValidationError, match=r"grids that keep their bits, .* bit_descent 2"):
        Qat(calibration=("adaround",), bit_descent=2)


def test_equal_calibrations_have_one_digest() -> None:
    ordered = Ptq(calibration=("equalization", "adaround", "bias_correction"))
    other = Ptq.model_validate(
        {"calibration": ["bias_correction", "equalization", "adaround", "adaround"]}
    )
    assert other == ordered
    with pytest.raises(ValidationError, match="'equalization', 'adaround' or 'bias_correction'"):
        Ptq.model_validate({"calibration": ["magic"]})


@pytest.mark.parametrize("recipe", [Ptq, Qat])
def test_a_recipe_calibrates_with_all_steps(
    recipe: type[QuantizedRecipe], blocks_run: ExecutionConfig
) -> None:
    plain = recipe(quantizer=BITS)
    stepwise = plain.replace(calibration=("equalization", "adaround", "bias_correction"))
    students = []
    for each in (plain, stepwise):
        (epoch,) = each.train(ShortTask(each, blocks_run, batch_size=8))
        assert epoch.student.training
        students.append(epoch.student)
    plain_state, state = (student.state_dict() for student in students)
    assert plain_state.keys() == state.keys()
    for part in ("layer.weight", "running_mean", "input_quantizer.log_step"):
        names = [name for name in state if name.endswith(part)]
        assert any(not torch.equal(plain_state[name], state[name]) for name in names)


def test_every_step_brings_a_student_closer_to_full_precision() -> None:
    torch.manual_seed(0)
    student = STUDENT.build(5).eval()
    images = random_images()

    def distance(*steps: str) -> float:
        calibration = Ptq.model_validate({"calibration": steps}).calibration
        quantized = quantize(copy.deepcopy(student), BITS, calibration, images)
        with torch.no_grad():
            return float((quantized(images) - student(images)).norm())

    plain = distance()
    assert distance("adaround") < 0.9 * plain
    assert distance("bias_correction") < plain
    assert distance("equalization", "adaround", "bias_correction") < 0.9 * plain


def test_a_calibrated_student_is_shipped_as_it_is() -> None:
    torch.manual_seed(0)
    student: nn.Module = STUDENT.build(5)
    steps = Ptq(calibration=("equalization", "adaround", "bias_correction")).calibration
    quantize(student, BITS, steps, random_images()).eval()
    card = ModelSpec(model=STUDENT, num_classes=5, quantizer=BITS)
    shipped = deserialize(serialize(student, card))
    with torch.no_grad():
        expected, got = student(random_images()), shipped(random_images())
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
