"""Recipes learn, fail with a reason, are reproducible, and give the file that was measured."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.errors import TrialFailed
from trainables.core.metrics import Metrics
from trainables.data.augmentation import normalize
from trainables.data.base import Sample, Split
from trainables.data.configs import Augmentation
from trainables.data.loader import Loader
from trainables.data.packed import images_of, open_pack, pack_dataset
from trainables.data.registry import ShapesSource
from trainables.losses.configs import Pairwise, Pixelwise, by_name
from trainables.models.base import (
    Outputs,
    forward_features,
    supports_fast_bf16,
    to_device,
)
from trainables.models.configs import UNetConfig
from trainables.models.model_file import deserialize, read_model, read_spec, write_model
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import AdamW, Distill, Ptq, Qat, QatDistill, Recipe, Supervised
from trainables.recipes.optimization import OptimizerLoop
from trainables.teachers.output_cache import Form, cache_outputs
from trainables.teachers.outputs import LiveTeacher
from trainables.training.cost import predict_size_bytes
from trainables.training.evaluation import evaluate
from trainables.training.identity import training_key
from trainables.training.task import TrialTask
from trainables.training.trial import Trial

PLAIN = Augmentation(min_scale=1, max_scale=1, color=0)
BITS = Lsq(weight_bits=4, activation_bits=4)
START = Supervised(optimizer=AdamW(learning_rate=1e-2))
RECIPES: list[Recipe] = [
    START,
    Distill(optimizer=AdamW(learning_rate=1e-2), losses=by_name(Pixelwise(), Pairwise())),
    Qat(start=START, quantizer=BITS),
    QatDistill(start=START, quantizer=BITS, self_study=0.25, co_study=0.5),
    QatDistill(start=Distill(optimizer=AdamW(learning_rate=1e-2)), self_study=0, co_study=0),
]


@pytest.fixture
def taught_run(blocks_run: ExecutionConfig, teacher_file: Path) -> ExecutionConfig:
    return blocks_run.replace(teacher=teacher_file)


def config(recipe: Recipe, **changes: object) -> TrialConfig:
    fields: dict[str, object] = {
        "student": UNetConfig(width=4, depth=2),
        "recipe": recipe,
        "augmentation": PLAIN,
        "num_epochs": 4,
        "batch_size": 8,
    }
    return TrialConfig.model_validate(fields | changes)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_gives_a_measured_file_and_repeats_itself(
    recipe: Recipe, taught_run: ExecutionConfig
) -> None:
    trial = Trial(config(recipe), taught_run)
    metrics = list(trial)
    assert [m.epoch for m in metrics] == [1, 2, 3, 4]
    assert [m.finished for m in metrics] == [False, False, False, True]
    last = metrics[-1]
    assert trial.model_bytes is not None
    assert last.size_bytes == len(trial.model_bytes) == last.predicted_size_bytes
    assert last.size_bytes == predict_size_bytes(config(recipe), 5)
    loaded = deserialize(trial.model_bytes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    val = Loader(open_pack(taught_run.data).val, torch.device("cpu"))
    scores = evaluate(loaded, val, 5)
    assert scores.miou == last.miou
    assert scores.class_iou == last.class_iou
    assert len(scores.never_predicted) == last.classes_never_predicted
    assert all(value >= 0 for m in metrics for value in m.losses.values())
    again = list(Trial(config(recipe), taught_run))
    assert [m.losses for m in again] == [m.losses for m in metrics]
    assert again[-1].miou == last.miou


def asking_trial(config: TrialConfig, run: ExecutionConfig) -> Trial:
    """Sees images as the kept outputs saw them, but asks the teacher itself."""

    def teacher() -> LiveTeacher:
        assert run.teacher is not None
        return LiveTeacher(to_device(read_model(run.teacher), trial.task.device))

    trial = Trial(config, run)
    trial.task.teacher = teacher  # type: ignore[method-assign]
    return trial


@pytest.mark.parametrize(
    ("form", "augmentation"), [("views", PLAIN), ("maps", PLAIN.replace(flip=0))]
)
@pytest.mark.parametrize(
    "recipe",
    [RECIPES[1], pytest.param(RECIPES[3], marks=pytest.mark.slow)],
    ids=lambda recipe: recipe.name,
)
def test_kept_outputs_teach_what_the_teacher_does(
    form: Form, augmentation: Augmentation, recipe: Recipe, taught_run: ExecutionConfig
) -> None:
    if isinstance(recipe, QatDistill):
        recipe = recipe.replace(co_study=0)  # kept outputs do not learn
    run = taught_run.replace(teacher_outputs=cache_outputs(taught_run, form, augmentation))
    asked = config(recipe, augmentation=augmentation)
    kept, live = list(Trial(asked, run)), list(asking_trial(asked, run))
    for ours, reference in zip(kept, live, strict=True):
        assert ours.losses == pytest.approx(reference.losses, rel=0.05)
    if not supports_fast_bf16(torch.device("cpu")):  # else kept outputs are exact
        assert kept[-1].losses != live[-1].losses


def test_a_start_by_kept_outputs_is_another_artifact(taught_run: ExecutionConfig) -> None:
    recipe = Qat(start=Distill(optimizer=AdamW(learning_rate=2e-2)), quantizer=BITS)
    before = len(list(taught_run.artifacts.glob("student-*")))
    kept = taught_run.replace(teacher_outputs=cache_outputs(taught_run, "maps", PLAIN))
    for run in (taught_run, kept):
        next(iter(Trial(config(recipe), run)))
    assert len(list(taught_run.artifacts.glob("student-*"))) == before + 2


def test_phases_of_qkd_are_fractions_of_the_steps(taught_run: ExecutionConfig) -> None:
    recipe = QatDistill(start=START, quantizer=BITS, self_study=0.25, co_study=0.5)
    metrics = list(Trial(config(recipe), taught_run))
    named = [set(m.losses) for m in metrics]
    assert named[0] == {"cross_entropy"}
    assert named[1] == named[2] == {"cross_entropy", "pixelwise", "teacher"}
    assert named[3] == {"cross_entropy", "pixelwise"}


def test_the_start_is_trained_once_and_paid_for_by_nobody(taught_run: ExecutionConfig) -> None:
    store = taught_run.artifacts
    recipe = Qat(start=Supervised(optimizer=AdamW(learning_rate=2e-2)), quantizer=BITS)
    before = set(store.glob("student-*"))
    first = list(Trial(config(recipe), taught_run))[-1]
    made = set(store.glob("student-*")) - before
    assert len(made) == 1
    other = recipe.replace(quantizer=Lsq(weight_bits=2, activation_bits=8))
    second = list(Trial(config(other), taught_run))[-1]
    assert set(store.glob("student-*")) - before == made
    assert first.start_seconds == second.start_seconds > 0


def test_a_distilled_start_depends_on_the_content_of_the_teacher_s_file(
    taught_run: ExecutionConfig, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "teacher.safetensors"
    other.parent.mkdir()
    assert taught_run.teacher is not None
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(taught_run.teacher.read_bytes())
    torch.manual_seed(1)
    spec = read_spec(copy)
    write_model(other, spec.build(), spec)
    recipe = Qat(start=Distill(optimizer=AdamW(learning_rate=3e-2)), quantizer=BITS)
    before = len(list(taught_run.artifacts.glob("student-*")))
    for run in (taught_run, taught_run.replace(teacher=other), taught_run.replace(teacher=copy)):
        next(iter(Trial(config(recipe), run)))
    assert len(list(taught_run.artifacts.glob("student-*"))) == before + 2


FACTS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "seed": ({"seed": 1}, {}),
    "length": ({"num_epochs": 5}, {}),
    "width": ({"student": UNetConfig(width=9, depth=2)}, {}),
    "data": ({}, {"data": Path("artifacts/data-2")}),
    "teacher": ({}, {"teacher": Path("teacher-2.safetensors")}),
    "teacher's outputs": ({}, {"teacher_outputs": Path("artifacts/outputs-2")}),
    "no outputs": ({}, {"teacher_outputs": None}),
}
RUN = ExecutionConfig(
    data=Path("artifacts/data-1"),
    artifacts=Path("artifacts"),
    teacher=Path("teacher-1.safetensors"),
    teacher_outputs=Path("artifacts/outputs-1"),
)


@pytest.fixture
def teachers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files at the paths of two teachers, and a copy of the first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    for path, content in (("", "1"), ("", "2"), ("elsewhere", "1")):
        (tmp_path / path / f"teacher-{content}.safetensors").write_text(content)


@pytest.mark.usefixtures("teachers")
@pytest.mark.parametrize("fact", FACTS)
def test_each_fact_that_decides_a_training_is_in_its_key(fact: str) -> None:
    of_config, of_run = FACTS[fact]
    before = training_key(config(RECIPES[1]), RUN)
    assert training_key(config(RECIPES[1], **of_config), RUN.replace(**of_run)) != before


def test_arithmetic_and_release_decide_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "trainables.training.identity.supports_fast_bf16", lambda device: device.type == "cuda"
    )
    keys = {training_key(config(START), RUN.replace(device=kind)) for kind in ("cpu", "cuda")}
    assert len(keys) == 2
    monkeypatch.setattr("trainables.training.identity.FORMAT", 0)
    assert training_key(config(START), RUN) not in keys


@pytest.mark.usefixtures("teachers")
def test_what_decides_nothing_is_not_in_the_key() -> None:
    where = ExecutionConfig(
        data=Path("elsewhere/data-1"),
        artifacts=Path("elsewhere"),
        teacher=Path("elsewhere/teacher-1.safetensors"),
        teacher_outputs=Path("elsewhere/outputs-1"),
        num_threads=2,
        checkpoint_every_s=1,
        timeout_s=9,
    )
    assert training_key(config(RECIPES[1]), where) == training_key(config(RECIPES[1]), RUN)
    alone = RUN.replace(teacher=None, teacher_outputs=None)
    assert training_key(config(START), RUN) == training_key(config(START), alone)


class EightImages(ShapesSource):
    """The same eight images to train on and to be measured by."""

    def sample(self, split: Split, index: int) -> Sample:
        return super().sample("train", index)

    def digest(self) -> str:
        return "eight" + super().digest()


@pytest.mark.slow
def test_a_student_overfits_eight_images_to_90_miou(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    data = pack_dataset(EightImages(48, num_train=8, num_val=8), store)
    run = ExecutionConfig(data=data.path, artifacts=tmp_path)
    still = Augmentation(min_scale=1, max_scale=1, flip=0, color=0)
    recipe = Supervised(optimizer=AdamW(learning_rate=1e-2))
    trial = config(
        recipe,
        student=UNetConfig(width=12, depth=3),
        augmentation=still,
        num_epochs=60,
        batch_size=8,
    )
    miou = list(Trial(trial, run))[-1].miou
    assert miou > 0.9


@pytest.mark.parametrize(
    "recipe",
    [START, pytest.param(RECIPES[3], marks=pytest.mark.slow)],
    ids=lambda recipe: recipe.name,
)
def test_out_of_memory_halves_the_batch_once(
    recipe: Recipe,
    taught_run: ExecutionConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = list(Trial(config(recipe), taught_run))
    halved = Trial(config(recipe), taught_run)
    halved.task.accumulation_steps = 2
    expected = [report.losses for report in halved]
    limit_batch(monkeypatch, 4)
    trial = Trial(config(recipe), taught_run)
    metrics = list(trial)
    assert [m.epoch for m in metrics] == [1, 2, 3, 4]
    assert {m.parts for m in metrics} == {2}
    assert "out of memory: once more with 2 batches of 4" in caplog.text
    assert [m.losses for m in metrics] == expected
    for ours, reference in zip(metrics, whole, strict=True):
        assert ours.losses == pytest.approx(reference.losses, rel=0.15)


def test_two_halves_are_the_images_of_the_whole_batch(blocks_run: ExecutionConfig) -> None:
    whole, halved = (TrialTask(config(START), blocks_run) for _ in range(2))
    halved.accumulation_steps = 2
    halves = list(halved.batches(1))
    pairs = zip(halves[::2], halves[1::2], strict=True)
    for batch, (first, second) in zip(whole.batches(1), pairs, strict=True):
        assert len(first.images) == len(second.images) == 4
        assert torch.equal(torch.cat([first.images, second.images]), batch.images)
        assert torch.equal(torch.cat([first.labels, second.labels]), batch.labels)


def test_out_of_memory_twice_fails_the_trial(
    blocks_run: ExecutionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_batch(monkeypatch, 3)
    assert failure(START, blocks_run) == "out of memory, with batches of 4 images, too"


def limit_batch(monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
    def forward(model: torch.nn.Module, images: torch.Tensor) -> Outputs:
        if len(images) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward_features(model, images)

    for module in ("supervised", "qat_distill"):
        monkeypatch.setattr(f"trainables.recipes.{module}.forward_features", forward)


def test_gradients_of_two_halves_are_those_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, 5, generator=generator)
    weights = []
    for parts in (1, 2):
        torch.manual_seed(0)
        model = torch.nn.Linear(5, 2)
        optimizer_loop = OptimizerLoop(model, AdamW(learning_rate=0.1), 3, parts)
        for _ in range(3):
            for half in inputs.chunk(parts):
                optimizer_loop.step(model(half).square().mean())
        assert optimizer_loop.num_steps_taken == 3
        weights.append(model.weight)
    torch.testing.assert_close(*weights)


def failure(recipe: Recipe, run: ExecutionConfig, **changes: object) -> str:
    with pytest.raises(TrialFailed) as caught:
        list(Trial(config(recipe, **changes), run))
    return str(caught.value)


def test_a_loss_that_is_not_finite_fails_with_its_cause(blocks_run: ExecutionConfig) -> None:
    reason = failure(Supervised(optimizer=AdamW(learning_rate=1e30, weight_decay=0)), blocks_run)
    assert reason.startswith("not finite: loss cross_entropy is")
    assert "learning rate 1e+30 is likely too high" in reason


def test_a_student_that_does_not_learn_is_named(blocks_run: ExecutionConfig) -> None:
    reason = failure(Supervised(optimizer=AdamW(learning_rate=1e-9)), blocks_run)
    assert reason.startswith("not learning: mIoU")
    assert "learning rate 1e-09 too low" in reason


def test_a_start_that_does_not_learn_fails_its_trials(blocks_run: ExecutionConfig) -> None:
    start = Supervised(optimizer=AdamW(learning_rate=1e-9))
    reason = failure(Qat(start=start, quantizer=BITS), blocks_run)
    assert reason.startswith("not learning")
    assert reason.endswith("(its full-precision start)")


def test_losses_are_means_per_labelled_pixel(blocks_run: ExecutionConfig) -> None:
    first: Metrics = next(iter(Trial(config(START), blocks_run)))
    assert 0 < first.losses["cross_entropy"] < 3  # a uniform guess over 5 classes costs 1.61


def test_calibration_alone_keeps_what_eight_bits_can(blocks_run: ExecutionConfig) -> None:
    bits = Lsq(weight_bits=8, activation_bits=8)
    ptq = Ptq(start=START, start_epochs=4, quantizer=bits)
    trial = Trial(config(ptq, num_epochs=1), blocks_run)
    (metrics,) = trial
    plain = list(Trial(config(START), blocks_run))[-1]
    assert metrics.finished
    assert metrics.miou == pytest.approx(plain.miou, abs=0.02)
    assert metrics.start_seconds > 0
    assert metrics.size_bytes is not None
    assert metrics.compressed_bytes is not None
    assert metrics.compressed_bytes < metrics.size_bytes
    assert trial.student is not None
    assert trial.model_bytes is not None
    shipped = deserialize(trial.model_bytes)
    (images,) = trial.task.val.in_order(len(trial.task.val))
    with torch.no_grad():
        before, after = (
            model.eval()(normalize(images_of(images))).argmax(1)
            for model in (trial.student, shipped)
        )
    assert metrics.changed_pixels == (before != after).sum()
    assert metrics.changed_pixels < 0.01 * before.numel()


def test_calibration_has_one_epoch() -> None:
    with pytest.raises(ValidationError, match=r"of recipe ptq must be 1, .* but got 4"):
        config(Ptq(start=START))
