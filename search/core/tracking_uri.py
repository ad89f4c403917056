"""URIs of MLflow stores in SQLite, whose paths may contain any character."""

from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
"""MLflow's environment variable, which names the store of new studies where no flag does."""
SQLITE = "sqlite:///"
SQLITE_BY_DRIVER = "sqlite+pysqlite:///"
"""The same with the driver's name: for the other form MLflow creates an undecoded folder."""
IN_MEMORY = ("sqlite://", "sqlite:///", "sqlite:///:memory:")
PLAIN = "".join(chr(code) for code in range(1, 128) if chr(code) not in "%?")
"""Characters that need no encoding; `?` begins options, `%` an encoded character."""


def default_tracking_uri(storage: Path) -> str:
    """The default store of a folder of studies."""
    return sqlite_uri(storage / "mlflow.db")


def sqlite_uri(database: Path) -> str:
    """The URI of a database."""
    path = str(database)
    encoded = "".join(c if ord(c) > 127 else quote(c, safe=PLAIN) for c in path)
    return SQLITE + path if encoded == path else SQLITE_BY_DRIVER + encoded


def database_of(uri: str) -> Path | None:
    """The database file of a URI; None where the store is not in SQLite."""
    for prefix in (SQLITE, SQLITE_BY_DRIVER):
        if uri.startswith(prefix):
            return Path(unquote(uri.removeprefix(prefix).split("?")[0]))
    return None


def check_tracking_uri(uri: str, flag: str) -> str:
    """The URI of the same store, made independent of the working folder.

    Raises:
        ValueError: the store that `flag` names is in memory, or its URI contains a password.
    """
    if uri in ("", *IN_MEMORY):
        raise ValueError(f"{flag} must name a store that keeps its content, but got {uri!r}")
    if urlsplit(uri).password:
        raise ValueError(
            f"{flag} must hold no password, which studies would keep: set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for a server, or what the "
            "database's driver reads, as PGPASSWORD"
        )
    return absolute_uri(uri)


def absolute_uri(uri: str) -> str:
    """The URI of the same store, made independent of the working folder."""
    path, question, options = uri.partition("?")
    database = database_of(path)
    if database is None or database.is_absolute():
        return uri
    return sqlite_uri(database.absolute()) + question + options
