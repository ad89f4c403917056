"""Classifies errors of MLflow's stores as transient or not, and describes them."""

import socket
import sqlite3
from collections.abc import Iterator

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError, StatementError

from trainables.core.command_line import first_line

BUSY_SQLITE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
CONNECT_S = 3.0
"""Timeout of a connection to a database, in seconds."""


def describe_store_error(error: BaseException) -> str:
    """A one-line description of an error, without SQLAlchemy's notes on the SQL statement."""
    for cause in causes(error):
        if isinstance(cause, StatementError) and cause.args:
            return str(cause.args[0]).split("\n")[0]
    return first_line(error)


def is_transient(error: BaseException, uri: str) -> bool:
    """Whether the store at `uri` may answer later: it is busy, or unreachable now."""
    found = list(causes(error))
    if uri.startswith(("http://", "https://")):
        return any(is_network_error(cause) for cause in found)
    if any(isinstance(cause, sqlite3.Error) for cause in found):
        return any(is_busy_sqlite(cause) for cause in found)
    return any(isinstance(cause, OperationalError) for cause in found) and nobody_listens(uri)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and its chain of causes and contexts."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_network_error(error: BaseException) -> bool:
    """Whether a server did not answer, or answered that it is unavailable now.

    Errors of `requests` are OSErrors, and also ValueErrors where the URI itself is invalid.
    """
    return isinstance(error, OSError) and not isinstance(error, ValueError)


def is_busy_sqlite(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", None)  # absent where Python itself refuses a call
    return isinstance(error, sqlite3.Error) and code is not None and code & 0xFF in BUSY_SQLITE


def nobody_listens(uri: str) -> bool:
    """Whether the server of a database accepts no connection: drivers have no error code for it."""
    try:
        url = make_url(uri)
    except ArgumentError:
        return False
    port = url.port or DEFAULT_PORTS.get(url.get_backend_name())
    if url.host is None or port is None:
        return False
    try:
        socket.create_connection((url.host, port), CONNECT_S).close()
    except OSError:
        return True
    return False
