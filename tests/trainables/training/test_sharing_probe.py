"""How many trials share a card: rates of real processes on a CPU, and what is made of them."""

import os
import sys
import time
from multiprocessing import Barrier
from pathlib import Path

import psutil
import pytest
from mps_program import REFUSING, SERVICE, install

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.progress import progress_to
from trainables.models.configs import UNetConfig
from trainables.recipes.configs import Ptq, Qat, Recipe, Supervised
from trainables.training import sharing_probe
from trainables.training.mps import PIPES
from trainables.training.sharing_probe import (
    CardMeasure,
    find_rates,
    measure_card,
    measure_rates,
)

GIB = 1 << 30


def config(recipe: Recipe, width: int = 4) -> TrialConfig:
    return TrialConfig(student=UNetConfig(width=width, depth=2), recipe=recipe, batch_size=4)


def test_trials_train_in_rounds_of_more_and_more(
    blocks_run: ExecutionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = measure_rates(blocks_run, config(Qat()), (1, 2))
    assert list(rates) == [1, 2]
    assert all(rate > 0 for rate in rates.values())


def test_a_process_that_dies_is_not_waited_for_by_the_others(blocks_run: ExecutionConfig) -> None:
    missing = blocks_run.replace(data=blocks_run.data / "missing")
    with pytest.raises((OSError, ValueError), match="missing"):
        measure_rates(missing, config(Supervised()), (1, 2))


@pytest.mark.parametrize(
    ("rates", "best", "gain"),
    [
        ([{1: 100, 2: 180, 4: 300, 8: 320}, {1: 50, 2: 52, 4: 50, 8: 30}], 4, 3**0.5),
        ([{1: 100, 2: 90, 4: 80, 8: 1}, {1: 10, 2: 10, 4: 10, 8: 1}], 1, 1),
        ([{1: 100, 2: 200, 4: 200, 8: 200}] * 2, 2, 2),  # more of them would only take memory
    ],
)
def test_the_number_with_the_largest_mean_gain_is_taken(
    rates: list[dict[int, float]],
    best: int,
    gain: float,
    card: list[tuple[int, ...]],
    blocks_run: ExecutionConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = list(rates)
    monkeypatch.setattr(sharing_probe, "measure_rates", lambda *given: left.pop(0))
    students = [config(Supervised(), width) for width in (4, 8)]
    run = blocks_run.replace(artifacts=tmp_path)
    found = measure_card(run, students, students, most=8, data_share=0.1)
    assert (found.num_trials, found.gain) == (best, pytest.approx(gain))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Eight trials fit; the fastest are four. The items are the numbers that were tried."""
    tried: list[tuple[int, ...]] = []

    def rates(run: object, config: object, counts: tuple[int, ...]) -> dict[int, float]:
        tried.append(tuple(counts))
        return {number: {1: 100.0, 2: 150.0, 4: 200.0, 8: 190.0}[number] for number in counts}

    monkeypatch.setattr(sharing_probe, "measure_gpu_bytes", lambda *given: (6 * GIB, 80 * GIB))
    monkeypatch.setattr(sharing_probe, "measure_rates", rates)
    return tried


def test_rates_are_measured_once_for_each_student(
    card: list[tuple[int, ...]], blocks_run: ExecutionConfig, tmp_path: Path
) -> None:
    run = blocks_run.replace(artifacts=tmp_path)
    students = [config(Supervised(), width) for width in (4, 8)]
    expected = CardMeasure(6 * GIB, 80 * GIB, 4, pytest.approx(2.0))
    for _ in range(2):
        assert measure_card(run, students, students, most=8, data_share=0.1) == expected
    assert card == [(1, 2, 4, 8)] * 2
    assert find_rates(run, students[0], (1, 2, 4, 8))[4] == 200.0


@pytest.mark.parametrize(("most", "tried"), [(1, []), (3, [(1, 2)])])
def test_no_more_trials_are_tried_than_fit(
    most: int,
    tried: list[tuple[int, ...]],
    card: list[tuple[int, ...]],
    blocks_run: ExecutionConfig,
    tmp_path: Path,
) -> None:
    run, student = blocks_run.replace(artifacts=tmp_path), config(Supervised())
    found = measure_card(run, [student], [student], most, data_share=0.1)
    assert (found.num_trials, card) == (max([1, *(t[-1] for t in tried)]), tried)


def test_where_so_many_trials_do_not_run_at_once_fewer_are_tried(
    card: list[tuple[int, ...]],
    blocks_run: ExecutionConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def die(run: object, config: object, counts: list[int]) -> dict[int, float]:
        if len(counts) > num_running:
            raise RuntimeError("out of memory\nand more")
        return {number: 100.0 * number for number in counts}

    said: list[str] = []
    monkeypatch.setattr(sharing_probe, "measure_rates", die)
    run, student = blocks_run.replace(artifacts=tmp_path), config(Supervised())
    with progress_to(said.append):
        num_running = 3
        found = measure_card(run, [student], [student], 8, data_share=0.1)
        assert found == CardMeasure(6 * GIB, 80 * GIB, 4, pytest.approx(4.0))
        assert said[1:] == [
            "8 trials at once do not train on a GPU: RuntimeError: out of memory",
            "trials share GPUs without the Multi-Process Service (MPS): there is no "
            "nvidia-cuda-mps-control",
        ]
        num_running = 0
        run = run.replace(artifacts=tmp_path / "other")
        found = measure_card(run, [student], [student], 8, data_share=0.1)
    assert found == CardMeasure(6 * GIB, 80 * GIB, 1)


@pytest.mark.parametrize(
    ("factor", "plain_runs", "expected"),
    [
        (1.5, True, (8, 2.85, True)),
        (1.04, True, (4, 2.0, False)),  # not worth it
        (1.5, False, (8, 1.9, True)),  # as on a GPU that only one process may use
    ],
)
def test_the_multi_process_service_is_used_where_it_is_faster(
    factor: float,
    plain_runs: bool,
    expected: tuple[int, float, bool],
    card: list[tuple[int, ...]],
    blocks_run: ExecutionConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = install(SERVICE, tmp_path, monkeypatch)
    plain = sharing_probe.measure_rates

    def rates(run: ExecutionConfig, config: object, counts: tuple[int, ...]) -> dict[int, float]:
        if run.mps is None:
            if not plain_runs:
                raise RuntimeError("exclusive")
            return plain(run, config, counts)  # type: ignore[arg-type]
        assert (run.mps / "control").exists()
        return {number: factor * {1: 100, 2: 150, 4: 180, 8: 190}[number] for number in counts}

    monkeypatch.setattr(sharing_probe, "measure_rates", rates)
    run, student = blocks_run.replace(artifacts=tmp_path), config(Supervised())
    found = measure_card(run, [student], [student], 8, data_share=0.1)
    assert (found.num_trials, found.gain, found.with_mps) == (
        expected[0],
        pytest.approx(expected[1]),
        expected[2],
    )
    assert log.read_text().endswith("quit -t 10\n")
    if expected[0] == 8 and plain_runs:  # known by now, so that nothing is started
        log.unlink()
        again = measure_card(run, [student], [student], 8, data_share=0.1)
        assert again == found
        assert not log.exists()


def test_without_rights_trials_share_without_the_service(
    card: list[tuple[int, ...]],
    blocks_run: ExecutionConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(REFUSING, tmp_path, monkeypatch)
    run, student, said = blocks_run.replace(artifacts=tmp_path), config(Supervised()), []
    with progress_to(said.append):
        found = measure_card(run, [student], [student], 8, data_share=0.1)
    assert (found.num_trials, found.with_mps) == (4, False)
    assert said[-1] == (
        "trials share GPUs without the Multi-Process Service (MPS): an error: no rights"
    )


def test_processes_that_are_measured_join_the_service(
    blocks_run: ExecutionConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PIPES, raising=False)
    joined = []
    monkeypatch.setattr(sharing_probe, "join_service", joined.append)
    monkeypatch.setattr(sharing_probe, "together", Barrier(1), raising=False)
    monkeypatch.setattr(sharing_probe, "MEASURED_S", 0.1)
    run = blocks_run.replace(mps=tmp_path)
    assert len(sharing_probe.train_in_rounds(run, config(Supervised()), (1,), 0)) == 1
    assert joined == [tmp_path]


def test_students_that_train_nothing_share_by_memory(
    card: list[tuple[int, ...]], blocks_run: ExecutionConfig
) -> None:
    student = TrialConfig(student=UNetConfig(width=4, depth=2), recipe=Ptq(), num_epochs=1)
    found = measure_card(blocks_run, [student], [student, student], 8, data_share=0.1)
    assert (found, card) == (CardMeasure(6 * GIB, 80 * GIB, 8), [])


PARENT = """
import os, signal, sys
from trainables.config import ExecutionConfig, TrialConfig
from trainables.training import sharing_probe
from trainables.training.mps import PIPES

def measure():
    run, config = (
        kind.model_validate_json(text)
        for kind, text in zip((ExecutionConfig, TrialConfig), sys.argv[1:])
    )
    sharing_probe.measure_rates(run, config, (1, 2))

if __name__ == "__main__":
    measure()
"""


def test_no_process_outlives_one_that_is_killed(
    blocks_run: ExecutionConfig, tmp_path: Path
) -> None:
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    given = [each.model_dump_json() for each in (blocks_run, config(Supervised()))]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    parent = psutil.Popen([sys.executable, program, *given], env=environment)
    children: list[psutil.Process] = []
    while len(children) < 3:  # two that train, and the resource tracker of multiprocessing
        assert parent.poll() is None
        time.sleep(0.1)
        children = parent.children()
    time.sleep(1)
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
