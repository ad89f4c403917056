"""Shows the studies of a storage in MLflow's pages, or in Optuna Dashboard.

python -m search.ui studies
"""

import argparse
import sqlite3
import sys
import webbrowser
from collections.abc import Iterator
from pathlib import Path

from search.core.tracking_uri import database_of, default_tracking_uri
from search.storage.layout import mlflow_artifact_folder
from search.tracking.web_server import (
    MLFLOW_PORT,
    NotStarted,
    choose_port,
    end_by_any_signal,
    mlflow_server,
    optuna_dashboard,
    port_number,
    wait_for_signal,
)
from trainables.core.command_line import Parser, as_storage, report
from trainables.core.optional_dependencies import require_dashboard

OPTUNA_PORT = 8080
EPILOG = """MLflow shows for each data set the studies with their best mIoU within some sizes, the
fronts of all of them, the models of the fronts, and all trials. It listens on 127.0.0.1 only.

exit status: 0 ended by Ctrl-C; 1 the pages could not be started; 2 bad input.
"""


def main(argv: list[str] | None = None) -> int:
    """Serves what the command line names until it is interrupted; gives the exit status."""
    arguments = parse(argv)
    end_by_any_signal()

    def serve() -> None:
        if arguments.dashboard == "optuna":
            serve_optuna(arguments.storage, arguments.port, arguments.open)
        else:
            serve_mlflow(arguments.storage, arguments.port, arguments.open)

    return report(serve, NotStarted)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "python -m search.ui", "Show the studies of a storage in a web browser.", EPILOG
    )
    add = parser.add_argument
    add(
        "storage",
        type=as_storage,
        nargs="?",
        default=Path("studies"),
        metavar="STORAGE",
        help="the folder of studies (default: studies)",
    )
    add(
        "--dashboard",
        choices=("mlflow", "optuna"),
        default="mlflow",
        help="MLflow (default), or Optuna Dashboard with the trials as they are now",
    )
    add(
        "--port",
        type=port_number,
        metavar="N",
        help=f"where it listens (default: {MLFLOW_PORT} or {OPTUNA_PORT}, or the next free one)",
    )
    add("--open", action="store_true", help="also open the pages in a web browser")
    return parser.parse_args(argv)


def serve_mlflow(storage: Path, port: int | None, opens: bool) -> None:
    """Serves MLflow's pages of a storage.

    Raises:
        NotStarted: MLflow does not start.
        ValueError: there is no store, it is damaged or of another version, or the port is in use.
    """
    uri = default_tracking_uri(storage.absolute())
    database = database_of(uri)
    if database is None or not database.is_file():
        raise ValueError(f"STORAGE must hold MLflow's record, but there is no {database}")
    from search.tracking.mlflow import check_tracking
    from search.tracking.mlflow_internals import repair_artifacts
    from search.tracking.mlflow_views import say_views

    port = choose_port(port, MLFLOW_PORT)
    check_tracking(uri, storage)
    artifacts = mlflow_artifact_folder(storage.absolute())
    try:
        for before in repair_artifacts(database, artifacts):
            print(f"artifacts that were at {before} are now at {artifacts}")
    except sqlite3.OperationalError as error:  # a study is writing, or the file may only be read
        print(f"paths of artifacts were not checked: {error}")
    print("starting MLflow", flush=True)
    with mlflow_server(uri, artifacts, port) as address:
        show(say_views(uri, address), opens)


def serve_optuna(storage: Path, port: int | None, opens: bool) -> None:
    """Serves Optuna Dashboard's pages of a storage.

    Raises:
        ValueError: there are no studies, one is damaged, or the port is in use.
    """
    require_dashboard("--dashboard optuna")
    from search.storage.dashboard_copy import copy_studies
    from search.storage.mirrored_studies import download_studies

    download_studies(storage, lambda name: True)
    copies = copy_studies(storage)
    with optuna_dashboard(copies, choose_port(port, OPTUNA_PORT)) as address:
        show(iter([f"studies  {address}/dashboard/"]), opens)


def show(lines: Iterator[str], opens: bool) -> None:
    """Prints the links, opens the first, and waits for Ctrl-C or SIGTERM."""
    for line in lines:
        print(line, flush=True)
        if opens and "http" in line:
            webbrowser.open(line.split()[-1])
            opens = False
    wait_for_signal()


if __name__ == "__main__":
    sys.exit(main())
