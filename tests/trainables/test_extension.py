"""Parts added from outside the package, one class each, in a training up to the model file."""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from compact_networks import compacted
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.metrics import Metrics
from trainables.data.base import FileRole, Sample, Split
from trainables.data.configs import Augmentation
from trainables.data.packed import pack_dataset
from trainables.losses.configs import Pixelwise, Requirement, Term, by_name
from trainables.losses.distillation import TermLoss
from trainables.models.base import Outputs, StudentNetwork
from trainables.models.configs import StudentConfig, UNetConfig
from trainables.models.model_file import (
    MODEL_FILE,
    deserialize,
    read_model,
    read_spec,
    serialize,
)
from trainables.quantization.quantizers.base import Quantizer
from trainables.quantization.quantizers.configs import Lsq
from trainables.quantization.quantizers.fake_quantizer import FakeQuantizer
from trainables.recipes.configs import AdamW, Distill, Ptq, Qat, Recipe, Supervised
from trainables.training.trial import Trial, save

FAST = AdamW(learning_rate=1e-2)
SMALL = UNetConfig(width=4, depth=2)


class StripesStudent(StudentConfig):
    """A student family: two convolutions at full resolution."""

    name: Literal["stripes"] = "stripes"
    channels: int = 6

    def build(self, num_classes: int) -> StudentNetwork:
        return Stripes(self.channels, num_classes)

    def describe(self) -> str:
        return f"stripes {self.channels}"


class Stripes(StudentNetwork):
    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.layer_groups = {"encoder": ("first",), "decoder": ("middle",)}
        self.first = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.middle = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, num_classes, 1)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        return self.native_outputs(images_B3HW).logits

    def native_outputs(self, images_B3HW: Tensor) -> Outputs:
        features = F.relu(self.middle(F.relu(self.norm(self.first(images_B3HW)))))
        return Outputs(self.last(features), features)


class Imitation(Term):
    """A distillation term: the student's features, projected, resemble the teacher's."""

    name: Literal["imitation"] = "imitation"
    requires: ClassVar[Requirement] = "channels"

    def build(
        self, student: Outputs, teacher: Outputs, class_weights_K: Tensor | None = None
    ) -> TermLoss:
        return ImitationLoss(student.features.shape[1], teacher.features.shape[1])


class ImitationLoss(TermLoss):
    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(student_channels, teacher_channels, 1)

    def forward(self, student: Outputs, teacher: Outputs, labels_BHW: Tensor) -> Tensor:
        size = teacher.features.shape[-2:]
        projected = F.adaptive_avg_pool2d(self.projection(student.features.float()), size)
        return F.mse_loss(projected, teacher.features.detach().float())


class RangeQuantizer(Quantizer):
    """A quantizer that learns nothing: the grid spans the values that calibration meets."""

    name: Literal["range"] = "range"

    def build_weight_quantizer(
        self, bits: int, weight: Tensor, step_shape: tuple[int, ...]
    ) -> FakeQuantizer:
        return RangeGrid(bits, step_shape)

    def build_input_quantizer(self, bits: int) -> FakeQuantizer:
        return RangeGrid(bits, (1,))


class RangeGrid(FakeQuantizer):
    def __init__(self, bits: int, shape: tuple[int, ...]) -> None:
        super().__init__(bits)
        self.register_buffer("range", torch.ones(shape))

    @property
    def step(self) -> Tensor:
        return self.get_buffer("range") / self.high

    def forward(self, value: Tensor) -> Tensor:
        rounded = (value / self.step).clamp(self.low, self.high).round() * self.step
        return value + (rounded - value).detach()

    @torch.no_grad()
    def calibrate(self, value: Tensor) -> None:
        shape = self.step.shape
        others = [axis for axis, size in enumerate(shape) if size == 1] if len(shape) > 1 else None
        largest = value.abs().amax(others, keepdim=True) if others else value.abs().amax()
        self.get_buffer("range").copy_(largest.clamp(min=1e-6).expand(shape))


class Halves:
    """A data layout: images that are dark above and bright below."""

    class_names, notes = ("dark", "bright"), ()

    def digest(self) -> str:
        return "halves"

    def canvas(self) -> tuple[int, int]:
        return 16, 16

    def file_roles(self) -> dict[str, FileRole]:
        return {}

    def num_samples(self, split: Split) -> int:
        return 32 if split == "train" else 8

    def sample(self, split: Split, index: int) -> Sample:
        random = np.random.default_rng([split == "val", index])
        mask = (np.arange(16)[:, None] >= random.integers(4, 12)).repeat(16, 1).astype(np.uint8)
        noise = random.integers(0, 60, (16, 16, 3))
        return Sample((150 * mask[..., None] + noise).astype(np.uint8), mask)


def train(
    recipe: Recipe,
    run: ExecutionConfig,
    folder: Path,
    student: StudentConfig = SMALL,
) -> tuple[Trial, list[Metrics]]:
    """A short training that learns, and what it left in the folder."""
    config = TrialConfig(
        student=student,
        recipe=recipe,
        augmentation=Augmentation(min_scale=1, max_scale=1, color=0),
        num_epochs=1 if recipe.only_calibrates else 8,
    )
    assert TrialConfig.model_validate_json(config.model_dump_json()) == config
    trial = Trial(config, run)
    metrics = list(save(trial, folder))
    last = metrics[-1]
    assert last.size_bytes == last.predicted_size_bytes == (folder / MODEL_FILE).stat().st_size
    shipped = read_model(folder / MODEL_FILE)
    images = next(trial.task.batches(1)).images
    assert trial.student
    with torch.no_grad():
        trained = trial.student.eval()(images)
        exact = read_spec(folder / MODEL_FILE).replace(format=2)
        converted = deserialize(serialize(trial.student, exact))(images)
        torch.testing.assert_close(converted, trained, rtol=1e-3, atol=1e-3)
        # whose biases are those that integers can add, and, as its steps, have 16 bits
        assert torch.equal(shipped(images), compacted(trial.student)(images))
        agree = (shipped(images).argmax(1) == trained.argmax(1)).float().mean()
    assert agree > 0.95
    return trial, metrics


@pytest.mark.parametrize("bits", [2, 4, 32])
def test_a_student_family(bits: int, blocks_run: ExecutionConfig, tmp_path: Path) -> None:
    start = Supervised(optimizer=FAST)
    quantizer = Lsq(weight_bits=bits, activation_bits=max(4, bits))
    recipe = start if bits == 32 else Ptq(start=start, start_epochs=8, quantizer=quantizer)
    _, metrics = train(recipe, blocks_run, tmp_path, StripesStudent())
    assert read_spec(tmp_path / MODEL_FILE).model == StripesStudent()
    assert metrics[-1].miou > 0.5


def test_a_loss_with_a_projection(
    blocks_run: ExecutionConfig, teacher_file: Path, tmp_path: Path
) -> None:
    recipe = Distill(optimizer=FAST, losses=by_name(Pixelwise(weight=0.1), Imitation(weight=0.5)))
    run = blocks_run.replace(teacher=teacher_file)
    _, metrics = train(recipe, run, tmp_path)
    assert set(metrics[0].losses) == {"cross_entropy", "pixelwise", "imitation"}
    assert metrics[-1].losses["imitation"] < 0.5 * metrics[0].losses["imitation"]
    assert metrics[-1].num_params == sum(
        parameter.numel() for parameter in SMALL.build(5).parameters()
    )


def test_a_projection_goes_on_from_a_checkpoint(
    blocks_run: ExecutionConfig, teacher_file: Path, tmp_path: Path
) -> None:
    config = TrialConfig(
        student=SMALL,
        recipe=Distill(optimizer=FAST, losses=by_name(Imitation())),
        num_epochs=4,
    )
    run = blocks_run.replace(teacher=teacher_file, checkpoint_every_s=0)
    whole = [(metrics.miou, metrics.losses) for metrics in Trial(config, run)]
    cut_off = iter(Trial(config, run, tmp_path))
    next(cut_off), next(cut_off), next(cut_off)
    del cut_off
    rest = [(metrics.miou, metrics.losses) for metrics in Trial(config, run, tmp_path)]
    assert rest == whole[-len(rest) :]
    assert len(rest) == 3


def test_a_term_of_channels_is_refused_where_outputs_are_kept(
    blocks_run: ExecutionConfig, teacher_file: Path, tmp_path: Path
) -> None:
    config = TrialConfig(recipe=Distill(losses=by_name(Imitation())))
    run = blocks_run.replace(teacher=teacher_file, teacher_outputs=tmp_path)
    with pytest.raises(ValueError, match=r"the teacher must be live for .* imitation, but its"):
        Trial(config, run)


def test_a_quantizer(blocks_run: ExecutionConfig, tmp_path: Path) -> None:
    recipe = Qat(
        start=Supervised(optimizer=FAST), start_epochs=8, quantizer=RangeQuantizer(), optimizer=FAST
    )
    _, metrics = train(recipe, blocks_run, tmp_path)
    card = read_spec(tmp_path / MODEL_FILE)
    assert card.quantizer == RangeQuantizer()
    assert metrics[-1].miou > 0.5


def test_a_data_layout(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    data = pack_dataset(Halves(), ArtifactStore(artifacts))
    run = ExecutionConfig(data=data.path, artifacts=artifacts)
    _, metrics = train(Supervised(optimizer=FAST), run, tmp_path / "out")
    assert metrics[-1].miou > 0.8
