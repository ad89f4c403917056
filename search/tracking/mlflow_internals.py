"""Updates artifact paths in MLflow's SQLite store, for which MLflow has no public interface."""

import sqlite3
from contextlib import closing
from pathlib import Path

PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns that hold absolute paths of artifacts."""


def repair_artifacts(database: Path, root: Path) -> list[str]:
    """Changes all artifact paths of a storage that has moved to its folder `root`.

    These are the paths of folders of its name. Gives where they were, as URIs.
    """
    after = root.resolve().as_uri()
    with closing(sqlite3.connect(database)) as connection, connection:
        found = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        moved = [
            before
            for (before,) in found
            if before and before != after and before.rsplit("/", 1)[-1] == root.name
        ]
        for before in moved:
            for table, column in PATHS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (after, len(before) + 1, before, len(before) + 1, before + "/"),
                )
    return moved
