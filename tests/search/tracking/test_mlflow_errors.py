"""Errors of real stores: which may be over later, and the line that says what is wrong."""

import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import sqlalchemy
from mlflow import MlflowClient
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from search.tracking.mlflow_errors import describe_store_error, is_transient, nobody_listens


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")


@contextmanager
def server(status: int) -> Iterator[str]:
    """The address of a server that gives every request the same answer."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, *given: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def error_of(uri: str) -> Exception:
    """What MLflow raises where it asks a store."""
    with pytest.raises(Exception, match=r".") as caught:
        MlflowClient(uri).search_experiments(max_results=1)
    return caught.value


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_server_that_is_not_there_may_answer_later() -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    assert is_transient(error_of(uri), uri)


def test_a_server_that_keeps_silent_may_answer_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert is_transient(error_of(uri), uri)


@pytest.mark.parametrize(("status", "expected"), [(503, True), (502, True), (404, False)])
def test_a_server_may_say_that_it_cannot_answer_now(status: int, expected: bool) -> None:
    with server(status) as uri:
        assert is_transient(error_of(uri), uri) is expected


@pytest.mark.parametrize("uri", ["http://[", "ftp://x", "nosuch://x"])
def test_an_address_of_no_store_stays_one(uri: str) -> None:
    assert not is_transient(error_of(uri), uri)


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)


def sqlite_error(path: Path) -> OperationalError:
    """What SQLAlchemy raises where an item is added to a database, having told of its flush."""
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0.1})
    with Session(engine) as session:
        session.add(Item(id=1))
        with pytest.raises(OperationalError) as caught:
            session.query(Item).all()
    engine.dispose()
    return caught.value


def test_a_locked_database_may_answer_later(tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE item (id INTEGER PRIMARY KEY)")
        other.execute("BEGIN EXCLUSIVE")
        assert is_transient(sqlite_error(path), f"sqlite:///{path}")


def test_a_database_without_a_table_stays_so_and_the_line_that_tells_is_found(
    tmp_path: Path,
) -> None:
    path = tmp_path / "some.db"
    error = sqlite_error(path)
    assert len(str(error).splitlines()) > 1
    assert "no such table" not in str(error).splitlines()[0]  # SQLAlchemy's note comes first
    assert describe_store_error(error) == "(sqlite3.OperationalError) no such table: item"
    assert not is_transient(error, f"sqlite:///{path}")


def test_a_file_that_is_no_database_stays_so(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("no database, " * 100)
    error = error_of(f"sqlite:///{path}")
    assert not is_transient(error, f"sqlite:///{path}")
    assert "not a database" in describe_store_error(error)


def test_what_mlflow_wraps_is_described_like_its_cause(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE experiments")
    error = error_of(f"sqlite:///{path}")
    assert describe_store_error(error) == "(sqlite3.OperationalError) no such table: experiments"


def test_other_databases_are_asked_for_a_connection() -> None:
    """Their drivers, which are not installed here, say in words alone why there is none."""
    error = OperationalError("SELECT 1", None, Exception("of the driver"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        uri = f"postgresql://127.0.0.1:{listening.getsockname()[1]}/mlflow"
        assert not nobody_listens(uri)
        assert not is_transient(error, uri)
    assert nobody_listens(uri)
    assert is_transient(error, uri)
    assert not is_transient(ImportError("of the driver"), uri)
    assert not nobody_listens("sqlite:////some.db")
    assert not nobody_listens("no address")


def test_an_error_without_words_is_named() -> None:
    assert describe_store_error(ValueError()) == "ValueError"
