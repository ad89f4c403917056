"""Checks that the records of a study agree: journal, tables, models, MLflow and the sampler.

python -m search.check studies/qkd-shapes
"""

import argparse
import sys

from search.storage.mirrored_studies import download_study
from search.storage.study_file import read_study_file
from search.study.replay import NotReplayable, replay
from search.study.verification import (
    InconsistentStudy,
    is_store_elsewhere,
    print_errors,
    violations,
)
from trainables.core.command_line import Parser, as_storage, report
from trainables.core.mirror import shown


def main(argv: list[str] | None = None) -> int:
    """Checks what the command line names and gives the exit status."""
    arguments = parse(argv)

    name = shown(arguments.study)

    def check() -> None:
        download_study(arguments.study)
        study = read_study_file(arguments.study, "STUDY")
        is_elsewhere = is_store_elsewhere(study)
        if is_elsewhere:
            print(f"MLflow was not asked: its store {study.config.tracking_uri} is not here")
        found = violations(study, arguments.study, with_mlflow=not is_elsewhere)
        num_found = print_errors(found)
        try:
            again = replay(study, arguments.study)
            num_trials = f"{again.num_compared} of {again.num_trials} trials"
            print(f"the sampler was asked again for {num_trials}")
            num_found += print_errors(again.differences)
        except NotReplayable as unknown:
            print(f"the sampler was not asked again: {unknown}")
        if num_found:
            raise InconsistentStudy(f"{name} is not whole: {num_found} disagreements")
        print(f"{name} is whole")

    return report(check, InconsistentStudy)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "python -m search.check",
        "Check that the records of a study that does not run agree with each other.",
        "exit status: 0 the study is whole; 1 records disagree; 2 bad input.\n",
    )
    parser.add_argument("study", type=as_storage, metavar="STUDY", help="the study's folder")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
