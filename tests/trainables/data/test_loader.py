"""Batches hold the rows asked for, whatever the device."""

from pathlib import Path

import numpy as np
import pytest
import torch

from trainables.data import loader
from trainables.data.arrow_table import ArrowTable, chunks_of, write_table
from trainables.data.loader import Loader, shuffled

DEVICES = [
    torch.device("cpu"),
    pytest.param(
        torch.device("cuda"),
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ],
    ),
]
COUNT = 73


@pytest.fixture
def table(tmp_path: Path) -> ArrowTable:
    values = np.arange(COUNT * 6, dtype=np.float16).reshape(COUNT, 2, 3)
    names = np.arange(COUNT, dtype=np.uint8)
    chunks = chunks_of(COUNT, row_bytes=13)
    rows = ({"values": values[list(c)], "name": names[list(c)]} for c in chunks)
    write_table(tmp_path / "t.arrow", rows)
    return ArrowTable(tmp_path / "t.arrow")


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("share", [0, 1])
def test_rows_come_as_asked_for(
    device: torch.device, share: float, table: ArrowTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "RESIDENT_SHARE", share)
    rows = [[3, COUNT - 1], [0], list(range(COUNT))]
    for wanted, batch in zip(rows, Loader(table, device).batches(rows), strict=True):
        assert batch["name"].tolist() == wanted
        assert batch["values"].dtype == torch.float16
        assert batch["values"].device.type == device.type
        assert batch["values"][:, 0, 0].tolist() == [6 * row for row in wanted]


def test_all_rows_come_in_order(table: ArrowTable) -> None:
    batches = list(Loader(table, torch.device("cpu")).in_order(7))
    assert torch.cat([batch["name"] for batch in batches]).tolist() == list(range(COUNT))
    assert [len(batch["name"]) for batch in batches] == [7] * 10 + [3]


def test_a_chunk_fits_into_memory() -> None:
    assert [len(chunk) for chunk in chunks_of(130, row_bytes=10)] == [64, 64, 2]
    assert [len(chunk) for chunk in chunks_of(3, row_bytes=1 << 40)] == [1, 1, 1]


def test_an_epoch_shows_every_row_at_most_once() -> None:
    batches = shuffled(64, 24, 0, 1)
    assert [len(batch) for batch in batches] == [24, 24]  # the smaller last one is left out
    assert len({row for batch in batches for row in batch}) == 48
    assert [len(batch) for batch in shuffled(64, 32, 0, 1)] == [32, 32]
    assert [len(batch) for batch in shuffled(64, 100, 0, 1)] == [64]
    assert batches == shuffled(64, 24, 0, 1)


def test_every_epoch_of_every_seed_has_its_own_order() -> None:
    orders = {str(shuffled(64, 24, seed, epoch)) for seed in range(8) for epoch in range(8)}
    assert len(orders) == 64
