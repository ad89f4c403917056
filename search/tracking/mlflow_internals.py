"""What MLflow offers no public way to: its SQLite store is told that its files have moved."""

import sqlite3
from contextlib import closing
from pathlib import Path


def move_artifacts(database: Path, before: str, after: str) -> None:
    """Tells a SQLite store where its files are now: MLflow itself knows absolute paths alone."""
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE substr({column}, 1, ?) = ?",
                (after, len(before) + 1, len(before), before),
            )
