"""A network of other people's code is measured as it came, and quantized from its own weights."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.errors import TrialFailed
from trainables.data.configs import Augmentation
from trainables.data.loader import Loader
from trainables.data.packed import open_pack
from trainables.models.configs import NetworkSource, TracedConfig, UNetConfig, WeightSources
from trainables.models.model_file import deserialize, read_spec
from trainables.models.network_source import import_network
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import AdamW, Original, Ptq, Qat, Recipe, Supervised
from trainables.train import main, own_teacher_config
from trainables.training.defaults import defaults_for
from trainables.training.evaluation import evaluate
from trainables.training.setup import set_up_weights
from trainables.training.teacher import check_teacher, import_teacher, prepare_teacher
from trainables.training.trial import Trial
from trainables.training.weights import check_weights

CPU = torch.device("cpu")
PLAIN = Augmentation(min_scale=1, max_scale=1, color=0)


@pytest.fixture
def source(foreign_file: Path) -> NetworkSource:
    return NetworkSource(file=str(foreign_file), builder="foreign_networks:foreign")


@pytest.fixture
def run(blocks_run: ExecutionConfig, source: NetworkSource, tmp_path: Path) -> ExecutionConfig:
    """With an artifact store that holds the weights."""
    found = blocks_run.replace(artifacts=tmp_path / "artifacts")
    sources, students = WeightSources(network=source), [import_network(source).student()]
    check_weights(students, sources, ArtifactStore(found.artifacts), found.data.name)
    assert not found.artifacts.exists()
    set_up_weights(found, students, sources, lambda line: None)
    return found


def config(student: TracedConfig, recipe: Recipe, **changes: object) -> TrialConfig:
    fields = {"student": student, "recipe": recipe, "augmentation": PLAIN, "num_epochs": 1}
    return TrialConfig.model_validate({**fields, "batch_size": 8, **changes})


def test_the_original_is_measured_as_it_is(run: ExecutionConfig, source: NetworkSource) -> None:
    network, data = import_network(source), open_pack(run.data)
    model = network.student().build(5)
    model.load_state_dict(network.weights)
    expected = evaluate(model, Loader(data.val, CPU), 5).miou
    trial = Trial(config(network.student(), Original()), run)
    (metrics,) = list(trial)
    assert expected > 0.6
    assert metrics.miou == pytest.approx(expected, abs=1e-3)
    assert trial.model_bytes
    assert evaluate(deserialize(trial.model_bytes), Loader(data.val, CPU), 5).miou == metrics.miou


def test_quantization_starts_from_its_weights_without_a_training(
    run: ExecutionConfig, source: NetworkSource
) -> None:
    student = import_network(source).student()
    (original,) = list(Trial(config(student, Original()), run))
    quantizer = Lsq(weight_bits=8, activation_bits=8)
    recipe = Ptq(start=Original(), start_epochs=40, quantizer=quantizer)
    (calibrated,) = list(Trial(config(student, recipe), run))
    assert calibrated.miou == pytest.approx(original.miou, abs=0.05)
    trained = Qat(
        start=Original(),
        quantizer=Lsq(weight_bits=3, activation_bits=4),
        optimizer=AdamW(learning_rate=1e-3),
    )
    *_, last = Trial(config(student, trained, num_epochs=2), run)
    assert last.miou > 0.5
    assert last.size_bytes
    assert original.size_bytes
    assert last.size_bytes < original.size_bytes / 2
    assert len(list(run.artifacts.glob("student-*"))) == 1  # one start for both


def test_a_new_head_is_trained_before_it_is_quantized(
    run: ExecutionConfig, source: NetworkSource
) -> None:
    student = import_network(source).student(new_head=True)
    start = Supervised(optimizer=AdamW(learning_rate=1e-2))
    recipe = Ptq(start=start, start_epochs=4, quantizer=Lsq(weight_bits=8, activation_bits=8))
    (metrics,) = list(Trial(config(student, recipe), run))
    assert metrics.miou > 0.4
    with pytest.raises(ValidationError, match="original must be for a network that came trained"):
        config(student, Original())


def test_a_pruned_network_is_trained_before_it_is_quantized(
    run: ExecutionConfig, source: NetworkSource
) -> None:
    whole = import_network(source).student()
    pruned = whole.replace(keep=0.5)
    start = Supervised(optimizer=AdamW(learning_rate=1e-2))
    recipe = Ptq(start=start, start_epochs=4, quantizer=Lsq(weight_bits=4, activation_bits=8))
    trial = Trial(config(pruned, recipe), run)
    (metrics,) = list(trial)
    assert trial.model_bytes
    assert len(trial.model_bytes) == metrics.size_bytes == metrics.predicted_size_bytes
    (original,) = list(Trial(config(whole, Original()), run))
    assert metrics.num_params < original.num_params / 2
    assert metrics.miou > 0.4
    assert len(list(run.artifacts.glob("weights-*"))) == 1  # slices of those of the whole network
    teacher = own_teacher_config(config(pruned, recipe), defaults_for("shapes", "cpu"), 16)
    assert (teacher.student, teacher.recipe) == (whole, Original())


def test_other_students_have_no_original() -> None:
    for recipe in (Original(), Ptq(start=Original())):
        with pytest.raises(ValidationError, match=r"that came trained, but got unet 16"):
            TrialConfig(student=UNetConfig(), recipe=recipe, num_epochs=1)


def test_without_its_weights_a_trial_fails(
    blocks_run: ExecutionConfig, source: NetworkSource, tmp_path: Path
) -> None:
    elsewhere = blocks_run.replace(artifacts=tmp_path)
    with pytest.raises(TrialFailed, match="--compress must name the network net again"):
        list(Trial(config(import_network(source).student(), Original()), elsewhere))


def test_it_is_the_default_teacher(run: ExecutionConfig, source: NetworkSource) -> None:
    own = config(import_network(source).student(), Original())
    teacher = prepare_teacher(run, "auto", own)
    assert teacher.note == "net as it came"
    assert teacher.miou > 0.6
    spec = read_spec(teacher.file)
    assert spec.model == own.student
    assert not spec.folded


def test_a_builder_gives_a_teacher(run: ExecutionConfig, foreign_file: Path) -> None:
    source = NetworkSource(
        file=str(foreign_file), builder="foreign_networks:foreign", flag="--teacher"
    )
    check_teacher(str(foreign_file), 5, (32, 32), source)
    with pytest.raises(ValueError, match=r"must have the 7 classes of the data, but .*pth has 5"):
        check_teacher(str(foreign_file), 7, (32, 32), source)
    imported = import_teacher(run, source)
    assert import_teacher(run, source) == imported
    own = TrialConfig(recipe=Supervised())
    assert prepare_teacher(run, str(imported), own).miou > 0.6


def test_a_single_training_takes_it_too(
    foreign_file: Path, source: NetworkSource, blocks_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    recipe = Ptq(start=Original(), quantizer=Lsq(weight_bits=8, activation_bits=8))
    path.write_text(config(import_network(source).student(), recipe).model_dump_json())
    argv = [str(path), "--data", str(blocks_folder), "--image-size", "32"]
    argv += ["--out", str(tmp_path / "out")]
    assert main(argv) == 2
    assert (
        main([*argv, "--compress", str(foreign_file), "--builder", "foreign_networks:foreign"]) == 0
    )
    assert main([*argv[:-1], str(tmp_path / "again")]) == 0  # its weights are an artifact
    assert (tmp_path / "again/model.safetensors").is_file()
