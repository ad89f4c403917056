"""A lock in a storage that machines share is held by one of them at a time."""

import threading
import time
from pathlib import Path

import pytest
from filelock import Timeout
from object_store import ObjectStore

from trainables.core import mirror_lock
from trainables.core.mirror import mirror_folder, remote_of
from trainables.core.mirror_lock import ClaimLock, identity_of, is_held, shared_lock

pytestmark = pytest.mark.slow  # waiting for locks takes seconds


@pytest.fixture
def claims(object_store: ObjectStore, tmp_path: Path) -> tuple[ClaimLock, ClaimLock]:
    """The same lock on two machines."""
    return claim(object_store, tmp_path / "a"), claim(object_store, tmp_path / "b")


def claim(object_store: ObjectStore, cache: Path) -> ClaimLock:
    lock = shared_lock(mirror_folder(f"{object_store.uri}/{cache.parent.name}", cache) / ".lock")
    assert isinstance(lock, ClaimLock)
    return lock


def test_one_machine_holds_it(mirrors: tuple[Path, Path]) -> None:
    here, there = (shared_lock(folder / "sub" / ".lock") for folder in mirrors)
    here.acquire()
    assert here.is_locked
    with pytest.raises(Timeout):
        there.acquire(timeout=0)
    assert not there.is_locked
    here.release()
    here.release()  # which changes nothing
    there.acquire(timeout=0)
    with pytest.raises(Timeout):
        here.acquire(timeout=0.2)
    there.release()


def test_one_process_of_a_machine_holds_it(mirrors: tuple[Path, Path]) -> None:
    here, again = (shared_lock(mirrors[0] / ".lock") for _ in range(2))
    here.acquire()
    with pytest.raises(Timeout):
        again.acquire(timeout=0)
    here.release()


def test_who_waits_gets_it(mirrors: tuple[Path, Path]) -> None:
    here, there = (shared_lock(folder / ".lock") for folder in mirrors)
    here.acquire()
    acquired: list[bool] = []

    def wait() -> None:
        there.acquire()
        acquired.append(there.is_locked)
        there.release()

    waiting = threading.Thread(target=wait)
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    here.release()
    waiting.join(30)
    assert acquired


def test_never_two_at_once(object_store: ObjectStore, tmp_path: Path) -> None:
    """Six machines that want it at the same time have it one after the other."""
    inside, most = [], []

    def work(cache: Path) -> None:
        lock = claim(object_store, cache)
        lock.acquire(timeout=60)
        inside.append(cache)
        most.append(len(inside))
        time.sleep(0.05)
        inside.remove(cache)
        lock.release()

    machines = [threading.Thread(target=work, args=(tmp_path / f"c{n}",)) for n in range(6)]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.join()
    assert most == [1] * 6


def test_the_lock_of_a_lost_machine_becomes_free(
    claims: tuple[ClaimLock, ClaimLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as a machine lives it renews its claim."""
    monkeypatch.setattr(mirror_lock, "RENEWED_EVERY_S", 0.2)
    monkeypatch.setattr(mirror_lock, "STALE_S", 2.0)
    lives, waits = claims
    lives.acquire()
    with pytest.raises(Timeout):
        waits.acquire(timeout=4)
    lives.release()
    lives._write()  # as a machine that is lost at once
    waits.acquire(timeout=10)
    assert list(waits.claims.files()) == [waits.claim]
    waits.release()
    assert not waits.claims.files()


def test_a_machine_that_was_suspended_learns_that_another_has_the_lock(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_lock, "RENEWED_EVERY_S", 0.2)
    lost = threading.Event()
    uri = f"{object_store.uri}/{tmp_path.name}"
    suspended = shared_lock(mirror_folder(uri, tmp_path / "a") / ".lock", lost.set)
    assert isinstance(suspended, ClaimLock)
    suspended.acquire(timeout=0)
    assert not lost.wait(1)
    suspended.claims.child(suspended.claim).delete()  # by the machine that takes it for lost
    assert lost.wait(10)
    assert not suspended.claims.files()
    suspended.release()


def test_whoever_only_looks_writes_nothing(claims: tuple[ClaimLock, ClaimLock]) -> None:
    held, _ = claims
    path = Path(held.file.lock_file)
    assert not is_held(path)
    held.acquire()
    assert is_held(path)
    held.release()
    assert not is_held(path)


def test_the_claim_of_a_killed_process_does_not_keep_its_own_machine_out(
    claims: tuple[ClaimLock, ClaimLock],
) -> None:
    killed, other = claims
    killed._write()
    with pytest.raises(Timeout):
        other.acquire(timeout=0)
    killed.acquire(timeout=0)
    killed.release()


def test_a_store_that_does_not_answer_is_no_holder(
    claims: tuple[ClaimLock, ClaimLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = claims

    def no_answer() -> None:
        raise OSError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(here, "_write", no_answer)
        with pytest.raises(OSError, match="no answer"):
            here.acquire(timeout=0)
    here.acquire(timeout=0)
    here.release()


def test_the_identity_of_a_cache_stays(tmp_path: Path) -> None:
    assert identity_of(tmp_path / "a") == identity_of(tmp_path / "a")
    assert identity_of(tmp_path / "a") != identity_of(tmp_path / "b")


def test_a_local_path_has_a_file_lock(tmp_path: Path) -> None:
    lock = shared_lock(tmp_path / "sub" / ".lock")
    assert remote_of(tmp_path / "sub" / ".lock") is None
    with lock.acquire(timeout=0):
        assert lock.is_locked
