"""Shows what studies are doing: trials by state, front, nodes, what waits and why, what is left.

python -m search.status studies/qkd-shapes
"""

import argparse
import sys
import time
from pathlib import Path

from search.storage.layout import STUDY_FILE
from search.storage.mirrored_studies import download_studies, download_study
from search.storage.study_file import read_study_file
from search.study.overview import overview, summary
from trainables.core.command_line import Parser, as_storage, one_line, report, write_output
from trainables.core.mirror import shown

EPILOG = "exit status: 0 done; 2 bad input.\n"


def main(argv: list[str] | None = None) -> int:
    """Shows what the command line names and gives the exit status."""
    arguments = parse(argv)
    return report(lambda: show(arguments.folder), failure=RuntimeError)


def show(folder: Path) -> None:
    """Prints the lines of a study, or a line for each study of a storage.

    Raises:
        ValueError: there is no study, or one is damaged.
    """
    download_study(folder)
    if (folder / STUDY_FILE).is_file():
        for name, value in overview(read_study_file(folder), time.time()):
            write_output(f"{name:12} {value}\n")
        return
    download_studies(folder, lambda name: True)
    studies = sorted(path.parent for path in folder.glob(f"*/{STUDY_FILE}"))
    if not studies:
        raise ValueError(
            f"STUDY must be a study, or a storage of studies, but {shown(folder)} is neither"
        )
    width = max(len(study.name) for study in studies)
    for study in studies:
        try:
            line = summary(read_study_file(study))
        except (ValueError, OSError) as error:
            line = one_line(error)
        write_output(f"{study.name:{width}}  {line}\n")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "python -m search.status",
        "Show what a study is doing, or all studies of a storage, also while they run.",
        EPILOG,
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=as_storage,
        metavar="STUDY",
        default=Path("studies"),
        help="a study's folder, or that of a storage, also in an object store (default: studies)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
