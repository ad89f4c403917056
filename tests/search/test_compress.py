"""A network of other people's code goes through whole studies, up to files that ship."""

import json
import os
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from command_server import Command, finish
from study_factories import bring_store

from search import check, export
from search.execution.resources import num_cores
from trainables.models.base import supports_fast_bf16

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent


def command(*argv: str, with_builder: bool = True) -> Command:
    """A search that has ended, by a user whose module of networks can be imported."""
    path = [str(ROOT), *([str(ROOT / "tests")] if with_builder else [])]
    return finish("search.run", *argv, PYTHONPATH=os.pathsep.join(path))


def search(*argv: str, with_builder: bool = True) -> str:
    """What a search says that succeeds."""
    done = command(*argv, with_builder=with_builder)
    assert (done.returncode, done.errors) == (0, ""), done.said + done.errors
    return done.said


@pytest.fixture(scope="module")
def compress(foreign_file: Path, blocks_folder: Path) -> list[str]:
    argv = ["--data", str(blocks_folder), "--image-size", "32", "--epochs", "2"]
    # each trial that runs beside another is a process more that imports PyTorch
    argv += ["--cpus-per-trial", str(num_cores())]
    return [*argv, "--compress", str(foreign_file), "--builder", "foreign_networks:foreign"]


def test_every_point_of_the_front_ships_and_the_original_is_one(
    compress: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bring_store(tmp_path)
    where = ["--storage", str(tmp_path)]
    limits = ["--samples", "4", "--max-size", "8KB", "--name", "mine"]
    said = search("--space", "qkd", *compress, *where, *limits)
    assert "teacher: net as it came" in said
    folder = tmp_path / "mine"
    rows = {row["trial_id"]: row for row in pq.read_table(folder / "trials.parquet").to_pylist()}
    original = rows["0000"]
    assert (original["state"], original["recipe.name"]) == ("COMPLETE", "original")
    assert original["size_bytes"] > 8000  # no limit refuses what others are compared with
    assert not any("graph" in column for column in original)
    others = [row for row in rows.values() if row["state"] == "COMPLETE" and row is not original]
    assert len(others) == 3
    assert max(row["size_bytes"] for row in others) <= 8000
    assert {row["recipe.start.name"] for row in others} == {"original"}
    front = pq.read_table(folder / "front.parquet").column("trial_id").to_pylist()
    # whether the original is one of them is for what was measured to say
    if original["miou"] > max(row["miou"] for row in others):
        assert "0000" in front
    assert check.main([str(folder)]) == 0
    for form in ("packed", "onnx"):
        out = tmp_path / form
        assert export.main([str(folder), "--all", "--format", form, "--out", str(out)]) == 0
        assert len(list(out.glob("*.json"))) == len(front)
    # With operations on floats between integers some pixels change, many for so few images
    capsys.readouterr()
    export.main([str(folder), "--all", "--format", "onnx-int8", "--out", str(tmp_path / "int8")])
    cards = [json.loads(path.read_text()) for path in (tmp_path / "int8").glob("*.json")]
    refused = re.findall("mIoU", capsys.readouterr().err)
    assert len(cards) + len(refused) == len(front)
    assert {card["trial"] for card in cards} - {"0000"}
    assert all("network.stages.0.body.act" in card["float_operations"] for card in cards)

    # a resumed study needs neither the file nor the builder
    search(*where, "--resume", "mine", "--samples", "5", with_builder=False)
    assert check.main([str(folder)]) == 0


def test_a_network_that_onnx_does_not_know_ships_as_packed_files(
    compress: list[str], tmp_path: Path
) -> None:
    bring_store(tmp_path)
    argv = [*compress[:-1], "foreign_networks:of_absolutes", "--storage", str(tmp_path)]
    said = search("--space", "ptq", *argv, "--samples", "2", "--name", "absolutes")
    assert "net ships as a packed file, not as ONNX: a network must consist of" in said
    folder = tmp_path / "absolutes"
    assert {row["latency_ms"] for row in pq.read_table(folder / "front.parquet").to_pylist()} == {
        None
    }
    assert check.main([str(folder)]) == 0
    assert export.main([str(folder), "--all", "--out", str(tmp_path / "packed")]) == 0


def test_pruning_distillation_and_quantization_are_searched_together(
    compress: list[str], tmp_path: Path
) -> None:
    argv = ["--space", "qkd", *compress, "--prune", "1,0.5", "--storage", str(tmp_path)]
    said = search(*argv, "--samples", "5", "--name", "pruned")
    assert "teacher: net as it came" in said
    folder = tmp_path / "pruned"
    original, *others = pq.read_table(folder / "trials.parquet").to_pylist()
    assert (original["recipe.name"], original["student.keep"]) == ("original", 1)
    assert [row["student.keep"] for row in others] == [1, 1, 1, 0.5]
    assert {(row["student.keep"], row["recipe.start.name"]) for row in others} == {
        (1, "original"),
        (0.5, "distill"),
    }
    assert all(row["predicted_size_bytes"] == row["size_bytes"] for row in others)
    assert others[-1]["num_params"] < original["num_params"] / 2
    assert check.main([str(folder)]) == 0
    # in bfloat16 the pruned student may be dominated
    chosen = ["--all"] if supports_fast_bf16(torch.device("cpu")) else ["--trial", "0004"]
    argv = [*chosen, "--format", "onnx", "--out", str(tmp_path / "onnx")]
    assert export.main([str(folder), *argv]) == 0
    search("--storage", str(tmp_path), "--resume", "pruned", "--samples", "6", with_builder=False)


def test_layers_get_bits_of_their_own_by_their_sensitivity_in_the_original(
    compress: list[str], tmp_path: Path
) -> None:
    bring_store(tmp_path)
    search("--space", "mixed", *compress, "--storage", str(tmp_path), "--samples", "2")
    (table,) = tmp_path.glob("*/trials.parquet")
    original, mixed = pq.read_table(table).to_pylist()
    assert original["recipe.name"] == "original"
    assert mixed["recipe.start.name"] == "original"
    bits = {value for column, value in mixed.items() if column.endswith(".weight_bits")}
    assert len(bits) > 1


def test_the_least_miou_must_be_below_that_of_the_original_where_nothing_has_a_teacher(
    compress: list[str], tmp_path: Path
) -> None:
    bring_store(tmp_path)
    argv = ["--space", "mixed", *compress, "--storage", str(tmp_path), "--samples", "2"]
    done = command(*argv, "--least-miou", "0.999")
    assert done.returncode == 2, done.said
    (line,) = done.errors.splitlines()
    assert "--least-miou must be below the mIoU of the network to compress, 0." in line
