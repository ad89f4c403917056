"""The simulated clock, and the shares that are read off it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.search_efficiency.analytic import NOISY, branin_currin, make_table, park
from benchmarks.search_efficiency.compare import (
    AVERAGED,
    CURVES,
    GRID,
    name_of,
    open_table,
    share_of_budget,
    summarize,
)
from benchmarks.search_efficiency.methods import METHODS
from benchmarks.search_efficiency.record import Row, write_rows
from benchmarks.search_efficiency.simulate import simulate
from benchmarks.search_efficiency.table import Curve, Table, read_table
from search.algorithms.candidates import sample_config
from spaces import load_space


@pytest.fixture(scope="module")
def table() -> Table:
    return read_table(CURVES)


class InOrder:
    """Trains one curve after the other, and stops those of odd numbers after an epoch."""

    def suggest(self, job: str, taken: set[int]) -> int | None:
        return len(taken)

    def report(self, job: str, curve: Curve, epoch: int) -> bool:
        return int(job) % 2 == 0

    def complete(self, job: str, curve: Curve) -> None:
        assert int(job) % 2 == 0


def test_workers_share_the_budget(table: Table) -> None:
    seconds = [c.seconds[-1] if n % 2 == 0 else c.seconds[0] for n, c in enumerate(table.curves)]
    events = list(simulate(InOrder(), table, workers=1, budget_seconds=sum(seconds[:9]) + 1e-6))
    assert [event.seconds for event in events] == pytest.approx(np.cumsum(seconds)[:9:2])
    assert [event.point for event in events] == [table.point(c) for c in table.curves[:9:2]]
    four = list(simulate(InOrder(), table, workers=4, budget_seconds=sum(seconds[:9])))
    assert 0 < len(four) <= len(events) + 1
    assert all(event.seconds <= sum(seconds[:9]) for event in four)


def test_the_nearest_point_is_one_that_is_free(table: Table) -> None:
    first = table.nearest(table.points[3].params, set())
    assert first == 3
    assert table.nearest(table.points[3].params, {3}) != 3


@pytest.mark.parametrize("name", [name for name in METHODS if "Syne" not in name])
def test_every_search_finds_something(name: str, table: Table) -> None:
    budget = 6 * table.finished[0].seconds[-1]
    events = list(simulate(METHODS[name](table, 0), table, 2, budget))
    assert events
    shares = table.hypervolume([event.point for event in events]) / table.best
    assert 0 < shares <= 1


def test_analytic_problems_at_known_points() -> None:
    # The three minima of Branin's function are 0.397887: Branin 1972
    x = np.array([[(np.pi + 5) / 15, 2.275 / 15], [(5 - np.pi) / 15, 12.275 / 15]])
    branin, _ = branin_currin(x, np.ones(2))
    assert branin == pytest.approx((21 - 0.397887) / 22, abs=1e-6)
    _, currin = branin_currin(np.array([[0.0, 0.5]]), np.ones(1))
    assert currin[0] == pytest.approx((14 - (1 - 0) * 60 / 20) / 15)
    first, second = park(np.full((1, 4), 0.5), np.ones(1))
    assert np.isfinite([first, second]).all()
    made = make_table("park")
    assert (len(made.curves), made.num_epochs) == (2000, 9)
    noisy = make_table(f"park{NOISY}")
    assert [noisy.point(curve) for curve in noisy.curves] == [made.point(c) for c in made.curves]
    pairs = zip(noisy.curves, made.curves, strict=True)
    errors = np.array([np.subtract(seen.miou, true.miou) for seen, true in pairs])
    assert errors[:, 0] == pytest.approx(errors[:, -1])
    assert errors[:, -1].std() == pytest.approx(0.01, rel=0.1)


def test_a_level_that_most_seeds_miss_has_no_time() -> None:
    rising = np.tile(np.linspace(0, 1, GRID), (4, 1))
    assert share_of_budget(rising, 0.5) == "0.505"
    rising[:3] = 0
    assert share_of_budget(rising, 0.5) == "-"


def test_parameters_that_only_some_trainings_have_are_kept(tmp_path: Path) -> None:
    """Also where the first training does not have them."""
    space = load_space("qkd").space
    weight = "recipe.losses.extra.weight"
    samples = [sample_config(space, {}, seed)[1].params for seed in range(20)]
    rows: list[Row] = [
        {"number": number, **params, "miou": [0.3, 0.4], "seconds": [1.0, 2.0]}
        | {"size_bytes": 50_000 + number, "macs": 1, "failure": ""}
        for number, params in enumerate(sorted(samples, key=lambda params: weight in params))
    ]
    assert weight not in rows[0]
    assert weight in rows[-1]
    write_rows(rows, 0.05, tmp_path / "curves.parquet")
    table = read_table(tmp_path / "curves.parquet")
    assert table.floor == 0.05
    for point, row in zip(table.points, rows, strict=True):
        assert point.params == {name: row[name] for name in point.params}
        assert (weight in point.params) == (weight in row)
    found = [table.nearest(point.params, set()) for point in table.points]
    assert found == list(range(20))


def test_the_best_miou_within_a_size(table: Table) -> None:
    smallest = min(table.finished, key=lambda curve: curve.costs.size_bytes)
    points = [table.point(curve) for curve in table.finished]
    size = smallest.costs.size_bytes
    alike = [curve.miou[-1] for curve in table.finished if curve.costs.size_bytes == size]
    assert table.miou_within(points, size + 1) == max(alike)
    assert table.miou_within(points, 10**9) == max(curve.miou[-1] for curve in table.finished)
    assert table.miou_within(points, size - 1) == 0


def test_lucky_seeds_of_one_network_are_worth_no_more(table: Table) -> None:
    averaged = open_table(f"{CURVES}{AVERAGED}")
    assert name_of(f"{CURVES}{AVERAGED}") == "curves, averaged"
    student = table.curves[0].config.student
    alike = [row for row, curve in enumerate(table.curves) if curve.config.student == student]
    mean = np.mean([table.curves[row].miou[-1] for row in alike])
    assert len(alike) > 1
    for row in alike:
        assert averaged.point(averaged.curves[row])[0] == pytest.approx(-mean)
        assert averaged.curves[row].miou == table.curves[row].miou


def test_a_row_says_what_was_reached_and_how_soon_random_s_end_was() -> None:
    rising = np.linspace(0, 0.8, GRID)
    late, soon = np.tile(rising, (3, 5, 1)), np.tile(np.minimum(2 * rising, 0.9), (3, 5, 1))
    late[:, 1] = soon[:, 1] = 0  # nothing so small was found
    soon[0, 1] = 0.3
    *_, random, ours = summarize({"random": late, "ours": soon}).splitlines()
    assert random.split(" | ")[-6:-3] == ["1.000", "100%", "-"]
    assert ours.split(" | ")[-6:-1] == ["0.505", "100%", "-", "90.0, 0.505", "90.0, 0.505"]


def test_recording_needs_no_ray() -> None:
    code = "import sys, benchmarks.search_efficiency.record; print('ray' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
