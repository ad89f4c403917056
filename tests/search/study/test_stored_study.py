"""A study that an earlier release made goes on: it is resumed, checked and exported.

`stored_study` holds what version 0.2.0 left of an interrupted qkd study of the built-in shapes at
16 pixels: its journal with 12 finished, 3 refused and 2 paused trials, study.json, both tables, the
models of the front, and its teacher.
"""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from command_server import finish

from search import check, export
from search.storage.journal import read_journal
from search.storage.trials import read_record
from trainables.models.base import supports_fast_bf16

STORED = Path(__file__).with_name("stored_study")
Rows = dict[str, dict[str, Any]]


def read_rows(folder: Path, table: str = "trials") -> Rows:
    return {row["trial_id"]: row for row in pq.read_table(folder / f"{table}.parquet").to_pylist()}


def read_models(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in folder.glob("models/*/*.safetensors")}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stored study in another folder, resumed for one of its paused trials."""
    storage = tmp_path_factory.mktemp("studies")
    shutil.copytree(STORED, storage, dirs_exist_ok=True)
    argv = ["--storage", str(storage), "--resume", "stored", "--samples", "13"]
    teacher = ["--teacher", str(storage / "teacher.safetensors")]
    done = finish("search.run", *argv, *teacher)
    assert (done.returncode, done.errors) == (0, "")
    return storage / "stored"


def test_its_configurations_keep_their_digests_and_parameters() -> None:
    trials = read_journal(STORED / "stored", "stored").get_trials(deepcopy=False)
    for row in read_rows(STORED / "stored").values():
        record = read_record(trials[int(row["trial_id"])])
        assert record.config is not None
        assert record.config.digest() == row["config_digest"]
        assert {name: row[name] for name in record.params} == record.params
        assert {name: row[name] for name in record.config.flatten()} == record.config.flatten()


@pytest.mark.slow
def test_a_resumed_study_keeps_what_it_had(resumed: Path) -> None:
    before, after = read_rows(STORED / "stored"), read_rows(resumed)
    assert before["0015"]["state"] == "PAUSED"
    for trial_id, row in before.items():
        if row["state"] != "PAUSED":
            kept = {name: after[trial_id][name] for name in row if name != "latency_ms"}
            assert kept == {name: value for name, value in row.items() if name in kept}


@pytest.mark.slow
def test_a_resumed_study_finishes_the_paused_trial(resumed: Path) -> None:
    row = read_rows(resumed)["0015"]
    ends = [("COMPLETE", 4)]
    # On other processors than it was made on, its first mIoU may end it at the first rung
    if supports_fast_bf16(torch.device("cpu")) or not torch.cpu.get_capabilities().get("avx512_f"):
        ends.append(("PRUNED", 1))
    assert (row["state"], row["epochs"]) in ends
    assert row["config_digest"] == read_rows(STORED / "stored")["0015"]["config_digest"]


@pytest.mark.slow
def test_a_resumed_study_keeps_the_models_of_its_front(resumed: Path) -> None:
    before, after = read_models(STORED / "stored"), read_models(resumed)
    assert set(after) == set(read_rows(resumed, "front"))
    kept = before.keys() & after.keys()
    assert kept
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


@pytest.mark.slow
def test_a_resumed_study_agrees_with_all_its_records(resumed: Path) -> None:
    assert check.main([str(resumed)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("selection", [["--max-size", "50KB"], ["--all"]])
def test_a_resumed_study_is_exported(resumed: Path, tmp_path: Path, selection: list[str]) -> None:
    assert export.main([str(resumed), *selection, "--out", str(tmp_path)]) == 0
    exported = {path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    assert exported <= set(read_models(resumed).values())
    assert exported
