"""The table of a comparison: for the terminal, as Markdown, and one row a training as Parquet."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from rich.console import JustifyMethod
from rich.table import Table

from search.analysis.comparison_summary import ArmSummary
from search.analysis.tables import (
    fitting,
    schema_of,
    write_never_predicted,
    write_parquet,
)
from search.core.comparison import Arm, own_epochs, start_epochs
from search.core.record import Record
from search.storage.layout import COMPARISON_TABLE
from trainables.core.config_base import Leaf
from trainables.core.units import human_size
from trainables.data.configs import MEASURED_ON

STUDENT, RECIPE, MIOU, DIFFERENCE = "student", "recipe", "mIoU %", "difference"
VERDICT, PAIRS = "verdict", "pairs"
NEVER_PREDICTED = "never predicted"
SIZE, STEPS, SECONDS = "size", "steps", "seconds"
DROPPED = (SECONDS, STEPS, SIZE, PAIRS, NEVER_PREDICTED)
"""Columns left out on a narrow terminal, in this order."""
FOLDED_WIDTH = 16
"""Characters that a student's and a recipe's name need at least."""
TEXTS = (STUDENT, RECIPE, VERDICT)
"""Columns of text; the others are numbers."""
HOW_TO_READ = (
    f"Mean and standard deviation of the mIoU {MEASURED_ON['own']} over seeds, after the last "
    "epoch. Differences are to the reference, in points of mIoU, paired by seed, with the 95 % "
    "confidence interval of their mean by Student's t. Where the interval contains 0, the "
    "difference is within noise. One in twenty intervals excludes 0 although nothing differs, so "
    "that the more recipes are compared, the more a finding needs other seeds to confirm it. Steps "
    "are the optimizer steps of a student, its full-precision start + its own; seconds are the "
    "mean of those that it trained, its start included, beside the other trainings of the "
    "comparison. Classes never predicted are those that labels of the validation split hold and "
    "a student predicts at no pixel: the largest number of all seeds."
)


def cells(summary: ArmSummary, steps_per_epoch: int) -> dict[str, str]:
    """The texts of a row by column."""
    return {
        STUDENT: summary.arm.student,
        RECIPE: summary.arm.recipe,
        MIOU: write_miou(summary),
        DIFFERENCE: write_difference(summary),
        VERDICT: summary.verdict,
        PAIRS: write_pairs(summary),
        NEVER_PREDICTED: write_never_predicted(worst) if (worst := summary.missing_most) else "",
        SIZE: human_size(summary.size_bytes) if summary.size_bytes else "",
        STEPS: write_steps(summary.arm, steps_per_epoch),
        SECONDS: f"{summary.seconds:,.0f}" if summary.seconds is not None else "",
    }


def write_miou(summary: ArmSummary) -> str:
    if not summary.mious:
        return ""
    center = f"{100 * mean(summary.mious.values()):.1f}"
    return center if summary.deviation is None else f"{center} ± {100 * summary.deviation:.1f}"


def write_difference(summary: ArmSummary) -> str:
    if (difference := summary.difference) is None:
        return ""
    center = f"{100 * difference.mean:+z.1f}"
    if difference.interval is None:
        return center
    low, high = difference.interval
    return f"{center} [{100 * low:+z.1f}, {100 * high:+z.1f}]"


def write_pairs(summary: ArmSummary) -> str:
    if summary.arm.reference is None:
        return ""
    num_pairs = summary.difference.num_pairs if summary.difference else 0
    return f"{num_pairs} of {len(summary.arm.configs)}"


def write_steps(arm: Arm, steps_per_epoch: int) -> str:
    config = arm.configs[0]
    own, start = (f"{steps_per_epoch * n:,}" for n in (own_epochs(config), start_epochs(config)))
    return own if start == "0" else f"{start} + {own}"


def warn_of_missing_classes(summaries: Sequence[ArmSummary]) -> list[str]:
    """A warning for each row with classes that a student never predicts, however narrow a table."""
    return [
        f"warning: {summary.arm.name} never predicts {worst.share_never_predicted} classes, "
        "with the worst seed"
        for summary in summaries
        if (worst := summary.missing_most) and worst.classes_never_predicted
    ]


def comparison_table(
    summaries: Sequence[ArmSummary], title: str, steps_per_epoch: int, width: int | None = None
) -> Table:
    """The table for the terminal, with the student in its title where there is one.

    Columns that do not fit into the `width` of the terminal are left out, the least important
    first.
    """
    rows = [cells(summary, steps_per_epoch) for summary in summaries]
    students = {row[STUDENT] for row in rows}
    if len(students) == 1:
        title = f"{title}, {rows[0][STUDENT]}"
        for row in rows:
            del row[STUDENT]
    # Long names are folded
    columns = {name: [row[name][:FOLDED_WIDTH] for row in rows] for name in rows[0]}
    kept = fitting(columns, width, DROPPED)
    table = Table(title=title)
    for name in kept:
        justify: JustifyMethod = "left" if name in TEXTS else "right"
        is_long = name in (STUDENT, RECIPE)
        table.add_column(name, justify=justify, no_wrap=not is_long, overflow="fold")
    for row in rows:
        table.add_row(*(row[name] for name in kept))
    return table


def comparison_markdown(
    summaries: Sequence[ArmSummary],
    title: str,
    conditions: Mapping[str, str],
    steps_per_epoch: int,
    teacher: Sequence[str] = (),
) -> str:
    """A page with the conditions, the table, what failed, how to read it, and the teacher's IoU.

    `teacher` are the lines of `describe_teacher_metrics`.
    """
    rows = [cells(summary, steps_per_epoch) for summary in summaries]
    lines = [f"# {title}", "", *(f"- {name}: {value}" for name, value in conditions.items()), ""]
    for row in (list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)):
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |")
    failures = list(describe_failures(summaries))
    lines += ["", *(f"- {line}" for line in failures), *([""] if failures else []), HOW_TO_READ, ""]
    if teacher:
        lines += ["## The teacher", "", "```", *teacher, "```", ""]
    return "\n".join(lines)


def describe_failures(summaries: Sequence[ArmSummary]) -> list[str]:
    """A line for each training that failed."""
    return [
        f"{summary.arm.name}, seed {seed} failed, its pair is left out: {reason}"
        for summary in summaries
        for seed, reason in summary.failures.items()
    ]


def write_trainings(
    arms: Sequence[Arm],
    records: Mapping[str, Record],
    steps_per_epoch: int,
    folder: Path,
    class_names: Sequence[str],
) -> None:
    """Writes comparison.parquet, with a row for each training that has ended."""
    rows: list[dict[str, Leaf]] = [
        {
            **records[config.digest()].row(class_names),
            "trial_id": arm.training_name(config.seed),
            "arm.student": arm.student,
            "arm.recipe": arm.recipe,
            "arm.reference": arm.reference.name if arm.reference else None,
            "start_steps": steps_per_epoch * start_epochs(config),
            "own_steps": steps_per_epoch * own_epochs(config),
        }
        for arm in arms
        for config in arm.configs
        if config.digest() in records
    ]
    write_parquet(rows, schema_of(rows, class_names), folder / COMPARISON_TABLE)
