"""A study is checked before anything of it is written."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from factories import make_config, make_metrics
from study_factories import open_new_study, open_stored_study, prepare_new_study

from search.core.config import StudyConfig
from search.core.objectives import MIOU_AND_SIZE
from search.core.recipe_list import parse_teacher
from search.core.record import Record
from search.deployment.exporter import validation_data
from search.storage.journal import open_journal
from search.storage.layout import JOURNAL, STUDY_FILE, artifact_folder
from search.storage.study_file import lock_study, read_study_file
from search.study.preparation import open_study, prepare_study, with_lengths, with_ram
from trainables.core.progress import progress_to
from trainables.data.packed import pack_dataset
from trainables.data.voc import VocFolder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no such earlier study": ({"warm_start": "gone"}, "must name a study in"),
    "no such data": ({"data": "nowhere"}, "nowhere"),
    "no such teacher": ({"teacher": "nobody"}, "--teacher must be auto"),
    "teacher of other classes": ({"teacher": "lraspp_mobilenet_v3_large"}, "must have the 5 class"),
    "no such space": ({"space": "gone"}, "--space must name"),
    "no student in the budget": ({"max_size_bytes": 10}, "--max-size must admit students"),
    "no folder for MLflow": ({"tracking_uri": "sqlite:////gone/mlflow.db"}, "there is no /gone"),
    "no store of MLflow": ({"tracking_uri": "ftp://x"}, "must name an MLflow store"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_study_that_is_refused_leaves_nothing(
    case: str, blocks_folder: Path, tmp_path: Path
) -> None:
    changes, message = REFUSED[case]
    config = make_config(tmp_path / "studies", blocks_folder).replace(**changes)
    with pytest.raises(ValueError, match=message):
        prepare_study(config, resumed=False)
    assert list(tmp_path.iterdir()) == []


def test_latencies_without_onnx_are_refused_first(
    blocks_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(flag: str) -> None:
        raise ValueError(f"{flag} needs onnx")

    monkeypatch.setattr("search.study.preparation.require_onnx", missing)
    config = make_config(tmp_path / "studies", blocks_folder, max_latency_ms=1.0)
    with pytest.raises(ValueError, match="--max-latency, needs onnx"):
        prepare_study(config, resumed=False)
    assert list(tmp_path.iterdir()) == []


def test_latencies_are_measured_after_all_other_checks(blocks_folder: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path / "studies", blocks_folder, max_latency_ms=1.0, teacher="nobody")
    with pytest.raises(ValueError, match="--teacher must be auto"):
        prepare_study(config, resumed=False)
    assert list(tmp_path.iterdir()) == []


def test_a_prepared_study_is_not_on_disk_yet(blocks_folder: Path, tmp_path: Path) -> None:
    study = prepare_new_study(make_config(tmp_path, blocks_folder))
    assert not study.is_open
    assert not study.config.folder.exists()
    assert study.file.data_digest == study.data.digest
    assert artifact_folder(tmp_path) in study.data.path.parents


def test_a_student_as_the_teacher_is_kept_in_the_study(blocks_folder: Path, tmp_path: Path) -> None:
    teacher = parse_teacher("unet_mobilenet_v1 multiplier=0.25")
    config = make_config(tmp_path / "studies", blocks_folder, space="kd", teacher=teacher)
    study = prepare_study(config, resumed=False)
    assert study.cost_model.own_teacher_config(3).student == teacher
    open_study(study)
    study.lock.release()
    kept = read_study_file(study.config.folder).config
    assert kept.teacher == teacher
    prepare_study(kept, resumed=True).lock.release()
    for changed in ("auto", parse_teacher("unet")):
        with pytest.raises(ValueError, match=r"keep its teacher, .* with unet mnv1 0.25"):
            prepare_study(kept.replace(teacher=changed), resumed=True)


def test_unlabelled_images_are_packed_apart_and_must_stay_what_they_are(
    blocks_folder: Path, unlabelled_folder: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(unlabelled_folder, moved)
    plain = prepare_study(
        make_config(tmp_path / "studies", blocks_folder, space="kd", name="plain"), resumed=False
    )
    assert (plain.unlabelled, plain.file.unlabelled_digest) == (None, None)
    config = make_config(
        tmp_path / "studies", blocks_folder, space="kd", unlabelled=unlabelled_folder
    )
    study = prepare_study(config, resumed=False)
    assert study.unlabelled is not None
    assert study.unlabelled.packed.path.name == study.file.unlabelled_digest
    assert study.data.path == plain.data.path
    assert study.teacher_epochs == plain.teacher_epochs
    open_study(study)
    study.lock.release()
    kept = read_study_file(study.config.folder)
    assert kept.config.unlabelled == unlabelled_folder
    again = prepare_study(kept.config.replace(unlabelled=moved), resumed=True)
    again.lock.release()
    assert again.unlabelled is not None
    assert (again.unlabelled.was_packed, study.unlabelled.was_packed) == (True, False)
    (moved / "0.png").unlink()
    for changed in (moved, None):
        with pytest.raises(ValueError, match="a resumed study must keep its unlabelled images"):
            prepare_study(kept.config.replace(unlabelled=changed), resumed=True)


def test_an_older_study_has_no_unlabelled_images(blocks_folder: Path, tmp_path: Path) -> None:
    study = prepare_study(make_config(tmp_path, blocks_folder), resumed=False)
    open_study(study)
    study.lock.release()
    path = study.config.folder / STUDY_FILE
    stored = json.loads(path.read_text())
    del stored["unlabelled_digest"], stored["config"]["unlabelled"]
    path.write_text(json.dumps(stored))
    again = prepare_study(read_study_file(study.config.folder).config, resumed=True)
    again.lock.release()
    assert again.unlabelled is None


def test_lengths_follow_from_the_data(blocks_folder: Path, tmp_path: Path) -> None:
    def prepared(num_classes: int = 63, **changes: object) -> StudyConfig:
        own = {"epochs": None, "grace_epochs": None, "augmentation": None, **changes}
        config = make_config(tmp_path / str(own), blocks_folder, **own)
        return with_lengths(config, 64, num_classes)

    default = prepared()  # 2000 steps of 8 of the 64 images
    assert (default.epochs, default.grace_epochs, default.augmentation) == (250, 9, "scale")
    assert prepared(num_classes=5).epochs == 100  # at least 800 steps
    assert prepared(num_classes=5, steps=2000).epochs == 250
    short = prepared(steps=33)
    assert (short.epochs, short.grace_epochs, short.augmentation) == (5, 1, "flip")
    given = prepared(epochs=5000, grace_epochs=2, augmentation="flip")
    assert (given.epochs, given.grace_epochs, given.augmentation) == (5000, 2, "flip")
    assert prepared(epochs=2500).augmentation == "strong"
    quantized = prepared(space="qat")  # 1000 steps after a start of 2000
    assert (quantized.epochs, quantized.augmentation) == (125, "scale")
    assert prepared(space="qat", steps=1000).augmentation == "scale"
    assert prepared(space="qat", steps=900).augmentation == "flip"
    assert with_lengths(default, 64, 63) == default


def test_a_teacher_has_one_length_as_long_as_its_study_lives(
    blocks_folder: Path, tmp_path: Path
) -> None:
    config = make_config(tmp_path, blocks_folder, space="kd", samples=40)
    study = open_new_study(config)
    study.lock.release()
    again = prepare_study(study.config.replace(samples=400), resumed=True)
    assert again.teacher_epochs == study.teacher_epochs >= study.config.num_epochs
    again.lock.release()
    named = make_config(tmp_path, blocks_folder, space="kd", name="own", teacher_epochs=7)
    assert prepare_study(named, resumed=False).teacher_epochs == 7


def test_records_of_earlier_releases_get_their_memory_for_activations(
    blocks_folder: Path, tmp_path: Path
) -> None:
    cost_model = prepare_new_study(make_config(tmp_path, blocks_folder)).cost_model
    config = next(iter(cost_model.sampled_configs()))
    metrics = make_metrics(0.5, 1000)
    old = Record("0001", "COMPLETE", "", config, metrics)
    new = replace(old, metrics=metrics.replace(ram_bytes=7))
    failed = Record("0002", "FAIL", "", None, None)
    filled = replace(old, metrics=metrics.replace(ram_bytes=cost_model.ram_bytes(config)))
    assert with_ram([old, new, failed], cost_model) == [filled, new, failed]


def test_slow_steps_are_named_before_they_begin(blocks_folder: Path, tmp_path: Path) -> None:
    # a space of 4 networks, each of which is measured
    config = make_config(tmp_path, blocks_folder, space="kd", max_latency_ms=1e6)
    lines: list[str] = []
    with progress_to(lines.append):
        prepare_study(config, resumed=False).lock.release()
        first = list(lines)
        prepare_study(config, resumed=False).lock.release()
    assert first == [
        "measuring the latencies of the space",
        "packing the data",
        "making the database of MLflow",
    ]
    assert lines == [*first, "measuring the latencies of the space"]


def test_a_warm_start_needs_the_conditions_of_latencies_where_latencies_count(
    stored: StudyConfig,
) -> None:
    journal = open_journal(stored.folder, stored.name, MIOU_AND_SIZE)
    trial = journal.ask()
    trial.set_user_attr("ray_trial_id", "a")
    journal.tell(trial, (0.5, 1000))
    (stored.folder / STUDY_FILE).write_text("{")
    before = content(stored.storage)
    later = stored.replace(name="later", warm_start=stored.name)
    by_latency = later.replace(max_latency_ms=1e6)
    with pytest.raises(ValueError, match="is damaged"):
        prepare_study(by_latency, resumed=False)
    assert content(stored.storage) == before
    prepare_study(later, resumed=False).lock.release()


@pytest.fixture
def stored(blocks_folder: Path, tmp_path: Path) -> StudyConfig:
    """A study on disk that nobody runs."""
    data = shutil.copytree(blocks_folder, tmp_path / "data")
    study = open_new_study(make_config(tmp_path / "studies", data))
    study.lock.release()
    return study.config


def test_a_resumed_study_that_is_refused_stays_as_it_is(stored: StudyConfig) -> None:
    data, journal = Path(stored.data), stored.folder / JOURNAL
    whole = journal.read_bytes()

    def refuse(message: str) -> None:
        before = content(stored.storage)
        with pytest.raises(ValueError, match=message):
            prepare_study(stored, resumed=True)
        assert content(stored.storage) == before

    journal.write_bytes(b"nonsense\n" + whole)
    refuse(f"line 1 of {journal} is damaged")
    journal.write_bytes(b'{"op_code": 8}\n')
    refuse(f"{journal} must be Optuna's journal")
    journal.write_bytes(whole)
    lock = lock_study(stored)
    refuse("must not run twice at once, but study is running")
    lock.release()
    shutil.copy(data / "SegmentationClass/train1.png", data / "SegmentationClass/train0.png")
    refuse("must keep its data")
    (stored.folder / STUDY_FILE).write_text("{")
    refuse("is damaged")


def test_a_journal_whose_last_line_was_cut_off_is_no_reason_to_refuse(stored: StudyConfig) -> None:
    journal = stored.folder / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code"')
    study = open_stored_study(stored)
    assert journal.read_bytes().startswith(whole + b'{"op_code":')
    assert study.is_open


def test_an_earlier_study_is_scored_at_the_networks_input_size(
    blocks_folder: Path, tmp_path: Path
) -> None:
    """And finds the data as it packed them; a new study keeps the labels at their own size."""
    config = make_config(tmp_path, blocks_folder, image_size=16)
    new = open_new_study(config)
    assert new.file.label_size == "own"
    assert new.data.own_labels is not None
    new.lock.release()
    own_again = prepare_study(new.config, resumed=True)
    assert (own_again.file.label_size, own_again.data.digest) == ("own", new.data.digest)
    own_again.lock.release()

    source = VocFolder(blocks_folder, 16, label_size="packed")
    packed = pack_dataset(source, new.store).path
    path = config.folder / STUDY_FILE
    content = json.loads(path.read_text())
    del content["label_size"]
    path.write_text(json.dumps({**content, "data_digest": packed.name}))
    earlier = prepare_study(new.config, resumed=True)
    assert (earlier.file.label_size, earlier.data.path) == ("packed", packed)
    assert earlier.was_packed
    assert earlier.data.own_labels is None
    assert validation_data(read_study_file(config.folder), config.folder).path == packed
