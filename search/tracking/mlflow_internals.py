"""Updates artifact paths in MLflow's SQLite store, for which MLflow has no public interface."""

import sqlite3
from contextlib import closing
from pathlib import Path


def move_artifacts(database: Path, before: str, after: str) -> None:
    """Changes the prefix of artifact paths in a SQLite store: MLflow stores absolute paths."""
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE substr({column}, 1, ?) = ?",
                (after, len(before) + 1, len(before), before),
            )
