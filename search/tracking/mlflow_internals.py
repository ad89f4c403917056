"""Updates artifact paths in MLflow's SQLite store, for which MLflow has no public interface."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

OF_EXPERIMENT = "experiment_id = ?"
OF_ITS_RUNS = "run_id IN (SELECT run_uuid FROM runs WHERE experiment_id = ?)"
PATHS = (
    ("runs", "artifact_uri", OF_EXPERIMENT),
    ("logged_models", "artifact_location", OF_EXPERIMENT),
    ("model_versions", "source", OF_ITS_RUNS),
    ("model_versions", "storage_location", OF_ITS_RUNS),
)
"""Tables and columns with paths, and which of their rows belong to an experiment."""


def repair_artifacts(database: Path, root: Path) -> list[str]:
    """Changes the artifact paths of a storage that has moved to its folder `root`.

    Those of an experiment are changed where they lie in a folder of its name, and its artifacts
    are in `root` or nowhere: other storages may use the same database. Gives where they were.
    The models of an experiment, and their versions in the registry, are changed, too.
    """
    after = root.resolve().as_uri()
    moved = dict[str, None]()
    with closing(sqlite3.connect(database)) as connection, connection:
        experiments = connection.execute(
            "SELECT experiment_id, artifact_location FROM experiments WHERE artifact_location != ?",
            (after,),
        ).fetchall()
        for experiment, before in experiments:
            if before.rsplit("/", 1)[-1] != root.name:
                continue
            query = "SELECT run_uuid FROM runs WHERE experiment_id = ?"
            runs = [run for (run,) in connection.execute(query, (experiment,))]
            is_here = any((root / run).is_dir() for run in runs)
            if not is_here and folder_of(before).is_dir():
                continue
            moved[before] = None
            connection.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
                (after, experiment),
            )
            for table, column, condition in PATHS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {condition} AND substr({column}, 1, ?) = ?",
                    (after, len(before) + 1, experiment, len(before) + 1, f"{before}/"),
                )
    return list(moved)


def folder_of(uri: str) -> Path:
    """The folder of a file URI."""
    return Path(unquote(urlsplit(uri).path))
