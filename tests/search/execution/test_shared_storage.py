"""Whether the nodes of a cluster share the storage."""

import threading
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import NodeDiedError, RayTaskError

from search.execution import shared_storage as module
from search.execution.shared_storage import SharedStorage, StorageNotShared
from trainables.core.files import read_shared

HEAD = {"NodeID": "h", "Resources": {}, "NodeManagerHostname": "head", "NodeManagerAddress": "1"}


def node(name: str) -> dict[str, Any]:
    address = f"10.0.0.{ord(name) - ord('a')}"
    of_node = {"NodeID": 56 * name, "NodeManagerHostname": name, "NodeManagerAddress": address}
    return {**of_node, "Resources": {"CPU": 1.0}}


class Cluster:
    """Stands for Ray: nodes, the answers of their tasks, and how often each was asked."""

    def __init__(self) -> None:
        self.nodes = [HEAD]
        self.answers: dict[str, object] = {}
        self.asked: list[str] = []

    def remote(self, **options: object) -> Any:
        return lambda work: self

    def options(self, scheduling_strategy: Any) -> Any:
        self.node_id = scheduling_strategy.node_id[0]
        cluster = self

        class Task:
            def remote(self, file: Path, seen_within_s: float) -> tuple[str, Path]:
                cluster.asked.append(cluster.node_id)
                return cluster.node_id, file

        return Task()

    def wait(self, tasks: list[tuple[str, Path]], timeout: float) -> tuple[list[object], list[str]]:
        return [task for task in tasks if task[0] in self.answers], []

    def get(self, task: tuple[str, Path]) -> object:
        answer = self.answers[task[0]]
        if isinstance(answer, Exception):
            raise answer
        return answer or task[1].read_text()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    for name in ("remote", "wait", "get"):
        monkeypatch.setattr(module.ray, name, getattr(made, name))
    monkeypatch.setattr(module, "living_nodes", lambda: made.nodes)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    return made


def test_each_node_is_asked_once(cluster: Cluster, tmp_path: Path) -> None:
    shared = SharedStorage(tmp_path / "studies")
    cluster.nodes += [node("a"), node("b")]
    cluster.answers = {"a": "", "b": ""}
    shared.check_all()
    cluster.nodes.append(node("c"))
    shared.check_nodes()
    assert shared.file.exists()  # until all have answered
    shared.check_nodes()
    cluster.answers["c"] = ""
    shared.check_nodes()
    assert cluster.asked == ["a", "b", "c"]
    assert list((tmp_path / "studies").iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            "does not see it",
            "--storage must be .* node a .10.0.0.0. does not see it: mount one",
        ),
        (
            RayTaskError("f", "trace", ModuleNotFoundError("No module named 'trainables'")),
            "must have this project installed, .* on a .10.0.0.0. failed: .*No module named",
        ),
    ],
)
def test_another_answer_is_one_line(
    answer: object, words: str, cluster: Cluster, tmp_path: Path
) -> None:
    shared = SharedStorage(tmp_path)
    cluster.nodes += [node("a"), node("b")]
    cluster.answers = {"a": answer, "b": answer}
    with pytest.raises(StorageNotShared, match=words):
        shared.check_all()
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_is_lost_is_no_fault_of_the_storage(cluster: Cluster, tmp_path: Path) -> None:
    shared = SharedStorage(tmp_path)
    cluster.nodes.append(node("a"))
    cluster.answers = {"a": NodeDiedError("gone")}
    shared.check_nodes()
    cluster.answers = {"a": ""}
    shared.check_nodes()
    shared.check_nodes()
    assert cluster.asked == ["a", "a"]  # its process died, and it lives


def test_a_node_that_does_not_answer_is_named(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.0)
    cluster.nodes.append(node("a"))
    with pytest.raises(StorageNotShared, match=r"none ended on a \(10.0.0.0\) in 0 s"):
        SharedStorage(tmp_path).check_all()
    assert list(tmp_path.iterdir()) == []


def test_nodes_are_looked_at_every_few_seconds(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = SharedStorage(tmp_path)
    cluster.answers = {"a": "", "b": ""}
    cluster.nodes.append(node("a"))
    shared.look()
    cluster.nodes.append(node("b"))
    shared.look()
    assert cluster.asked == ["a"]
    shared.looked = float("-inf")
    shared.look()
    assert cluster.asked == ["a", "b"]
    monkeypatch.delenv("RAY_ADDRESS")
    cluster.nodes.append(node("c"))
    shared.looked = float("-inf")
    shared.look()  # on a machine by itself there is nothing to check
    assert cluster.asked == ["a", "b"]


def test_a_file_that_is_seen_late_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "word"
    assert read_shared(file, 0) == "does not see what another has written there"
    threading.Timer(0.3, file.write_text, ["hello"]).start()
    assert read_shared(file, 30) == "hello"
    assert [path.name for path in tmp_path.iterdir()] == ["word"]


def test_a_folder_that_cannot_be_written_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "word"
    file.write_text("hello")

    def refuse(path: Path, content: str) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("trainables.core.files.replace_file", refuse)
    assert read_shared(file, 0) == "cannot write there (Read-only file system)"
