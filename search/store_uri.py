"""Addresses of MLflow stores in SQLite, whose paths may hold any character."""

from pathlib import Path
from urllib.parse import quote, unquote

SQLITE = "sqlite:///"
SQLITE_BY_DRIVER = "sqlite+pysqlite:///"
"""The same with its driver's name: MLflow makes the folder of the other, without decoding it."""
PLAIN = "".join(chr(code) for code in range(1, 128) if chr(code) not in "%?")
"""Characters that SQLAlchemy takes as they are; `?` begins options, `%` an encoded character."""


def own_store(storage: Path) -> str:
    """The store of a folder of studies, where no other is named."""
    return store_at(storage / "mlflow.db")


def store_at(database: Path) -> str:
    """The address of a database."""
    path = str(database)
    encoded = "".join(c if ord(c) > 127 else quote(c, safe=PLAIN) for c in path)
    return SQLITE + path if encoded == path else SQLITE_BY_DRIVER + encoded


def database_of(uri: str) -> Path | None:
    """The database of an address; None where the store is not one in SQLite."""
    for prefix in (SQLITE, SQLITE_BY_DRIVER):
        if uri.startswith(prefix):
            return Path(unquote(uri.removeprefix(prefix).split("?")[0]))
    return None


def from_anywhere(uri: str) -> str:
    """The same store, named so that it is found from any working folder."""
    path, question, options = uri.partition("?")
    database = database_of(path)
    if database is None or database.is_absolute():
        return uri
    return store_at(database.absolute()) + question + options
