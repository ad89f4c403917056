"""The set-up of data, a teacher and its outputs, for searches and for single trainings."""

from collections import namedtuple
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.data.configs import AUGMENTATIONS, Augmentation
from trainables.data.packed import open_pack
from trainables.losses.configs import (
    Pairwise,
    PairwiseDecoder,
    Pixelwise,
    Requirement,
    Term,
    by_name,
)
from trainables.models.configs import UNetConfig
from trainables.models.student_list import parse_students
from trainables.recipes.configs import AdamW, Distill, Qat, QatDistill, Supervised
from trainables.teachers.output_cache import (
    cache_outputs,
    cache_part,
    find_outputs,
    predict_footprint,
)
from trainables.training.setup import (
    OutputMode,
    check_teacher_outputs,
    open_data,
    output_mode,
    say_data,
    set_up_teacher,
    set_up_teacher_outputs,
)
from trainables.training.teacher import prepare_teacher
from trainables.training.teacher_metrics import describe_teacher_metrics

FLIPS = Augmentation(min_scale=1, max_scale=1, color=0)
OWN = TrialConfig(
    student=UNetConfig(width=6, depth=2),
    recipe=Supervised(optimizer=AdamW(learning_rate=1e-2)),
    augmentation=FLIPS,
    num_epochs=4,
)
Usage = namedtuple("Usage", "free")


@pytest.fixture
def run(blocks_run: ExecutionConfig, teacher_file: Path, tmp_path: Path) -> ExecutionConfig:
    """With a store of its own."""
    return blocks_run.replace(teacher=teacher_file, artifacts=tmp_path)


class PixelwiseOfNow(Pixelwise):
    """A term that asks the teacher itself."""

    name: Literal["pixelwise_of_now"] = "pixelwise_of_now"  # type: ignore[assignment]
    requires: ClassVar[Requirement] = "live"


class Elsewhere:
    """A runner that notes what it runs."""

    def __init__(self, num_parallel: int = 1) -> None:
        self.num_parallel = num_parallel
        self.ran: list[object] = []

    def __call__(
        self, run: ExecutionConfig, prepare: Callable[..., Any], /, *given: Any, **named: Any
    ) -> Any:
        self.ran.append(prepare)
        return prepare(run, *given, **named)

    def each(
        self, run: ExecutionConfig, prepare: Callable[..., Any], calls: Sequence[Any]
    ) -> list[Any]:
        return [self(run, prepare, *given) for given in calls]


def test_data_are_known_before_they_are_packed_and_the_same_afterwards(
    blocks_folder: Path, tmp_path: Path
) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    new = open_data(str(blocks_folder), 32, store)
    assert not store.root.exists()
    data = new.pack()
    old = open_data(str(blocks_folder), 32, store)
    assert (new.found, old.found is None) == (None, False)
    assert old.pack() is old.found
    for opened in (new, old):
        assert opened.digest == data.digest
        assert opened.class_names == data.class_names
        assert opened.canvas == (data.height, data.width)
        assert tuple(opened.notes) == data.notes
    lines: list[str] = []
    say_data(data, True, ["one", "two"], lines.append)
    assert lines == [
        f"data: 64 training and 24 validation images of 32x32 pixels, {data.num_classes} classes, "
        f"found in {data.path}",
        "note on the data: one",
        "note on the data: two",
    ]


def test_a_teacher_is_made_where_the_runner_says(run: ExecutionConfig, teacher_file: Path) -> None:
    lines, elsewhere = list[str](), Elsewhere()
    there, teacher = set_up_teacher(run, str(teacher_file), OWN, lines.append, elsewhere)
    assert elsewhere.ran == [prepare_teacher]
    assert there.teacher is not None
    assert there.teacher.read_bytes() == teacher_file.read_bytes()
    assert lines[0].startswith("preparing the teacher")
    assert lines[1].startswith(f"teacher: unet of {teacher_file}, mIoU ")
    assert lines[2:] == [
        *describe_teacher_metrics(teacher.metrics, open_pack(run.data).class_names)
    ]
    assert set_up_teacher(run, str(teacher_file), OWN, lines.append) == (there, teacher)


@pytest.mark.parametrize(("wanted", "mode"), [("auto", "maps"), ("maps", "maps"), ("views",) * 2])
def test_outputs_are_kept_once_and_their_size_is_said_before(
    wanted: Any, mode: OutputMode, run: ExecutionConfig
) -> None:
    lines, elsewhere = list[str](), Elsewhere()
    there, came_to = set_up_teacher_outputs(run, wanted, FLIPS, lines.append, elsewhere)
    assert came_to == mode
    assert elsewhere.ran == [predict_footprint, cache_outputs]
    assert mode != "live"
    assert there == run.replace(teacher_outputs=find_outputs(run, mode, FLIPS))
    (line,) = lines
    assert line == (
        f"keeping the teacher's outputs as {mode}: {predict_footprint(run, mode, FLIPS)}"
    )
    again = set_up_teacher_outputs(run, wanted, FLIPS, lines.append, elsewhere)
    assert again == (there, mode)
    assert len(lines) == 1


def test_a_teacher_sees_parts_of_many_images_on_as_many_machines(
    run: ExecutionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.training.setup.LEAST_PART", 16)
    monkeypatch.setattr("trainables.data.arrow_table.MAX_ROWS", 8)
    lines, elsewhere = list[str](), Elsewhere(num_parallel=8)
    there, _ = set_up_teacher_outputs(run, "maps", FLIPS, lines.append, elsewhere)
    assert elsewhere.ran == [predict_footprint, cache_part, cache_part, cache_outputs]
    assert lines[1:] == ["the teacher sees 2 parts of the images at once"]
    assert there.teacher_outputs == find_outputs(run, "maps", FLIPS)


def test_outputs_for_unlabelled_images_are_kept_beside_the_others(
    run: ExecutionConfig, unlabelled_run: ExecutionConfig
) -> None:
    labelled, _ = set_up_teacher_outputs(run, "maps", FLIPS, lambda line: None)
    lines, elsewhere = list[str](), Elsewhere()
    run = run.replace(unlabelled=unlabelled_run.unlabelled)
    there, mode = set_up_teacher_outputs(run, "auto", FLIPS, lines.append, elsewhere)
    assert (mode, there.teacher_outputs) == ("maps", labelled.teacher_outputs)
    assert elsewhere.ran == [predict_footprint, cache_outputs]
    assert there.unlabelled_outputs == find_outputs(run, "maps", FLIPS, "unlabelled")
    (line,) = lines
    size = predict_footprint(run, "maps", FLIPS, "unlabelled")
    assert size.num_images == 12
    assert line == f"keeping the teacher's outputs for unlabelled images as maps: {size}"
    assert set_up_teacher_outputs(run, "maps", FLIPS, lines.append, elsewhere) == (there, "maps")
    assert len(lines) == 1


def test_auto_leaves_the_disk_its_room(
    run: ExecutionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 3 * predict_footprint(run, "maps", FLIPS).num_bytes
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(room))
    lines: list[str] = []
    assert set_up_teacher_outputs(run, "auto", FLIPS, lines.append) == (run, "live")
    assert lines[-1].startswith("that is more than 25% of the ")
    assert set_up_teacher_outputs(run, "maps", FLIPS, lines.append)[1] == "maps"  # as asked for


def test_a_live_teacher_keeps_nothing(run: ExecutionConfig, tmp_path: Path) -> None:
    assert set_up_teacher_outputs(run, "live", FLIPS, pytest.fail) == (run, "live")
    assert list(tmp_path.iterdir()) == []


def distill(*terms: Term) -> TrialConfig:
    return TrialConfig(recipe=Distill(losses=by_name(*terms)), augmentation=FLIPS)


@pytest.mark.parametrize("form", ["maps", "views"])
def test_kept_outputs_are_refused_where_a_term_asks_the_teacher(form: OutputMode) -> None:
    kept, live = distill(Pixelwise(), Pairwise()), distill(Pixelwise(), PixelwiseOfNow())
    message = rf"^--teacher-outputs must be live for .* pixelwise_of_now, but got {form}$"
    for refused in (live, TrialConfig(recipe=Qat(start=live.recipe))):
        with pytest.raises(ValueError, match=message):
            check_teacher_outputs(form, [kept, refused], 5)
    check_teacher_outputs(form, [kept, OWN], 5)
    check_teacher_outputs("live", [live], 5)
    check_teacher_outputs("auto", [live], 5)


def test_kept_outputs_are_refused_where_the_teacher_is_to_learn() -> None:
    learning = TrialConfig(recipe=QatDistill(co_study=0.3))
    with pytest.raises(ValueError, match="--teacher-outputs must be live for co-study, but got m"):
        check_teacher_outputs("maps", [OWN, learning], 5)
    with pytest.raises(ValueError, match="--teacher-size needs kept outputs, but co-study needs"):
        check_teacher_outputs("auto", [learning], 5, teacher_size=64)
    check_teacher_outputs("auto", [learning], 5)
    check_teacher_outputs("maps", [TrialConfig(recipe=QatDistill())], 5)


@pytest.mark.parametrize("form", ["auto", "live"])
def test_terms_of_a_decoder_are_refused_for_students_that_do_not_give_its_features(
    form: OutputMode | Literal["auto"],
) -> None:
    taught = distill(Pixelwise(), PairwiseDecoder())
    (student,) = parse_students("lraspp_mobilenet_v3_small")
    message = "pairwise_decoder must be for students whose decoder gives a feature map, but that of"
    for recipe in (taught.recipe, Qat(start=taught.recipe)):
        with pytest.raises(ValueError, match=f"{message} {student.describe()} gives none"):
            check_teacher_outputs(form, [taught, taught.replace(student=student, recipe=recipe)], 5)
    check_teacher_outputs(form, [taught, taught.replace(student=student, recipe=Qat())], 5)
    assert output_mode("auto", [taught], print) == "live"


def test_auto_is_live_where_a_term_asks_the_teacher() -> None:
    kept = distill(Pixelwise(), Pairwise())
    live = distill(PixelwiseOfNow())
    assert output_mode("auto", [kept, OWN], pytest.fail) == "auto"
    lines: list[str] = []
    assert output_mode("auto", [kept, live], lines.append) == "live"
    assert (
        "because the distillation term pixelwise_of_now needs it (--teacher-outputs live)"
        in lines[0]
    )
    assert output_mode("maps", [kept], pytest.fail) == "maps"
    assert output_mode("live", [live], pytest.fail) == "live"


def test_auto_is_live_where_the_teacher_learns() -> None:
    learning = TrialConfig(recipe=QatDistill(co_study=0.3))
    lines: list[str] = []
    assert output_mode("auto", [learning], lines.append) == "live"
    assert "because co-study needs it" in lines[0]


def test_auto_is_live_where_images_are_scaled_much() -> None:
    config, lines = distill(Pixelwise()), list[str]()
    scaled, strong = (
        config.replace(augmentation=AUGMENTATIONS[name]) for name in ("scale", "strong")
    )
    assert output_mode("auto", [scaled], pytest.fail) == "auto"
    assert output_mode("auto", [strong], lines.append) == "live"
    assert "because images are scaled by 0.75 to 1.5" in lines[0]
    assert output_mode("maps", [strong], lines.append) == "maps"
    assert output_mode("auto", [strong], lines.append, teacher_size=64) == "auto"
    warning = "warning: the teacher's outputs are kept, although images are scaled by 0.75 to 1.5"
    assert [line.startswith(warning) for line in lines[1:]] == [True, True]
    assert output_mode("live", [strong], pytest.fail) == "live"
    assert output_mode("views", [strong], pytest.fail) == "views"
    taught_by_nobody = strong.replace(recipe=Supervised())
    assert output_mode("auto", [taught_by_nobody], pytest.fail) == "auto"
