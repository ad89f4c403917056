"""What the teacher and the models of the front predict for a few validation images."""

from collections.abc import Sequence
from pathlib import Path

from search.analysis.masks import draw_masks, write_picture
from search.core.record import Record
from search.storage.layout import EXAMPLES, MASKS_PLOT, TEACHER_MASKS_PLOT, model_folder
from search.study.study import Study
from trainables.core import terminal
from trainables.core.command_line import one_line
from trainables.models.model_file import MODEL_FILE
from trainables.training.examples import (
    Examples,
    Masks,
    choose_examples,
    open_examples,
    predict_examples,
    read_examples,
    write_examples,
)


def keep_examples(study: Study, teacher: Path) -> None:
    """Keeps the examples of the data with what the teacher in a model file predicts, once."""
    folder, data = study.config.folder, study.data
    if (folder / EXAMPLES).is_file():
        return
    indices = choose_examples(data)
    seen = study.teacher_data or data
    masks = predict_examples(teacher, seen, indices, (data.height, data.width))
    examples = open_examples(data, indices, masks)
    picture = draw_masks(examples, masks, data.class_names, "the teacher")
    write_picture(picture, folder / TEACHER_MASKS_PLOT)
    write_examples(examples, folder / EXAMPLES)


def draw_front_masks(study: Study, front: Sequence[Record]) -> tuple[Examples, dict[str, Masks]]:
    """Draws what each model of the front predicts beside it; gives the predictions by trial.

    A model whose file is missing or damaged is left out, with a line that says so.
    """
    folder, data = study.config.folder, study.data
    indices = choose_examples(data)
    examples = read_examples(folder / EXAMPLES)
    if examples is None:  # there is no teacher
        examples = open_examples(data, indices)
        write_examples(examples, folder / EXAMPLES)
    found: dict[str, Masks] = {}
    for member in front:
        file = model_folder(folder, member.trial_id) / MODEL_FILE
        try:
            masks = predict_examples(file, data, indices, (data.height, data.width))
        except (ValueError, OSError) as error:
            terminal.print_error(f"no masks of trial {member.trial_id}: {one_line(error)}")
            continue
        assert member.metrics
        title = f"trial {member.trial_id}, mIoU {100 * member.metrics.miou:.1f} %"
        picture = draw_masks(examples, masks, data.class_names, title)
        write_picture(picture, file.with_name(MASKS_PLOT))
        found[member.trial_id] = masks
    return examples, found
