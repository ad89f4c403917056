"""Compares finished studies of a storage, which are not trained again."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from rich.console import Console

from search.analysis.study_pages import comparison_page, comparison_terminal_table, draw_fronts
from search.analysis.study_summary import StudySummary, check_comparable, summarize_study
from search.core.objectives import MIOU_AND_SIZE
from search.core.pareto import describe_shared_span
from search.storage.journal import read_journal
from search.storage.layout import COMPARED_PAGE, COMPARED_PLOT, artifact_folder
from search.storage.study_file import StudyFile, read_study_file
from search.storage.trials import read_asked_records
from trainables.core import terminal
from trainables.core.artifacts import is_there
from trainables.core.files import replace_file
from trainables.data.packed import open_pack
from trainables.training.evaluation import commonest_miou


def compare_studies(storage: Path, names: Sequence[str]) -> list[StudySummary]:
    """Prints the table of some studies, and writes their figure and page into the storage.

    Raises:
        ValueError: a study is missing or damaged, or they cannot be compared.
    """
    if len(names) < 2:
        raise ValueError(f"at least two studies can be compared, but got {names[0]} alone")
    if len(set(names)) < len(names):
        raise ValueError(f"each study must be named once, but got {' '.join(names)}")
    files = [read_study_file(storage / name, "NAME") for name in names]
    check_comparable(files)
    least = read_commonest_miou(storage, files[0])
    summaries = [
        summarize_study(
            file, read_asked_records(read_journal(file.config.folder, file.config.name)), least
        )
        for file in files
    ]
    console = Console(file=terminal.out(), highlight=False, width=terminal.out_width())
    span = f"hypervolume: {describe_shared_span(MIOU_AND_SIZE, least)}"
    console.print(comparison_terminal_table(summaries, span))
    title = " and ".join([", ".join(names[:-1]), names[-1]])
    drawn = BytesIO()
    draw_fronts(summaries, title).savefig(drawn, format="png")
    picture = drawn.getvalue()
    replace_file(storage / COMPARED_PLOT, picture)
    replace_file(storage / COMPARED_PAGE, comparison_page(summaries, title, picture, span))
    for name in (COMPARED_PLOT, COMPARED_PAGE):
        terminal.print_line(f"{name:14} {storage / name}")
    return summaries


def read_commonest_miou(storage: Path, file: StudyFile) -> float:
    """The mIoU of predicting the commonest class everywhere; 0 where the pack is deleted."""
    folder = artifact_folder(storage) / file.data_digest
    return commonest_miou(open_pack(folder)) if is_there(folder) else 0.0
