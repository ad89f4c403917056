"""Where Ray's address leads."""

import socket
import time

import pytest

from search.execution.cluster_address import check_cluster, cluster_address, on_cluster


def ignore(line: str) -> None:
    pass


@pytest.mark.parametrize("address", [None, "", " ", "local"])
def test_no_address_means_this_machine(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert cluster_address() == ""
    assert not on_cluster()
    lines: list[str] = []
    check_cluster(lines.append)
    assert not lines


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ray://127.0.0.1:10001", "got ray://127.0.0.1:10001 .*no HOST:PORT"),
        ("nonsense", "got nonsense .*no HOST:PORT"),
        ("127.0.0.1:", "got 127.0.0.1: .*no HOST:PORT"),
        ("name.invalid:6379", "got name.invalid:6379"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused(
    address: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert on_cluster()
    with pytest.raises(ValueError, match=f"RAY_ADDRESS must be auto.*{words}.*; unset it to run"):
        check_cluster(ignore)


def test_a_port_where_nobody_listens_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free.getsockname()[1]}")
        begin = time.monotonic()
        with pytest.raises(ValueError, match="refused"):
            check_cluster(ignore)
        assert time.monotonic() - begin < 5  # a promise, not a speed


def test_a_port_where_somebody_listens_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address, lines = f"127.0.0.1:{server.getsockname()[1]}", list[str]()
        monkeypatch.setenv("RAY_ADDRESS", address)
        check_cluster(lines.append)
        assert lines == [f"looking for the cluster at {address}"]
