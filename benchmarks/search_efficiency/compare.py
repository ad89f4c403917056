"""Compares searches on recorded trainings: hypervolume against device seconds, in minutes on a CPU.

    python -m benchmarks.search_efficiency --out docs/figures

All methods see the same curves, the same clock and the same workers; each training is used once in
a search. Hypervolume is above the mIoU of the commonest class, which newly recorded curves hold (0
without), and over the logarithm of the size, as a share of the table's. Beside it is the best mIoU
within some sizes.
"""

import argparse
import logging
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import optuna
import torch
from numpy.typing import NDArray

from benchmarks.search_efficiency.analytic import NOISY, PROBLEMS, make_table
from benchmarks.search_efficiency.methods import METHODS
from benchmarks.search_efficiency.simulate import simulate
from benchmarks.search_efficiency.table import Table, read_table
from benchmarks.timing import describe_machine, markdown
from search.core.pareto import SIZES_KB

CURVES = Path(__file__).with_name("curves.parquet")
AVERAGED = ", averaged"
"""End of the name of recorded curves that are scored by the mean of those of their network."""
GRID = 200
SHARES = (0.5, 0.9, 0.95, 0.99)
ALL = [(f"{CURVES}{end}", number) for end in ("", AVERAGED) for number in (40, 100)]
ALL += [(f"{name}{noise}", 40) for name in PROBLEMS for noise in ("", NOISY)]
NOT_DRAWN = (
    "sampler + priors",
    "halving + extrapolating TPE",
    "priors alone",
    "confidence width 0 alone",
    "confidence width 0 + sampler",
    "confidence width 2 + sampler",
    "warm start",
)
OURS = ("halving alone", "sampler alone", "halving + TPE", "halving + sampler", "all (default)")
Floats = NDArray[np.float64]


def main() -> None:
    arguments = parse()
    for problem, trainings in (
        [(arguments.problem, arguments.trainings)] if arguments.problem else ALL
    ):
        compare(arguments, problem, trainings)


def compare(arguments: argparse.Namespace, problem: str, trainings: int) -> None:
    """One problem and one budget: a table, and a figure where a folder is given."""
    table = open_table(problem)
    names, seeds = arguments.methods or list(METHODS), arguments.seeds
    budget = trainings * float(np.mean([curve.seconds[-1] for curve in table.finished]))
    jobs = [
        (problem, name, seed, arguments.workers, budget) for name in names for seed in range(seeds)
    ]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(run, jobs))
    print(
        f"{describe_machine(torch.device('cpu'))}; {name_of(problem)}: {len(table.curves)} "
        f"trainings of {table.num_epochs} epochs; {seeds} seeds, {arguments.workers} workers, "
        f"{trainings} trainings' device seconds\n"
    )
    curves = {name: np.array(found[i * seeds : (i + 1) * seeds]) for i, name in enumerate(names)}
    print(summarize(curves), flush=True)
    if arguments.out:
        name = name_of(problem).replace(",", "").replace(" ", "-")
        path = arguments.out / f"search-efficiency-{name}-{trainings}.png"
        draw({name: each[:, 0] for name, each in curves.items()}, trainings, path)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "--problem",
        help=f"recorded curves, also '...{AVERAGED}', branin-currin or park, also '...{NOISY}' "
        "(default: all)",
    )
    add("--trainings", type=int, default=40, help="of --problem: device seconds of so many")
    add("--seeds", type=int, default=20)
    add("--workers", type=int, default=4)
    add("--methods", nargs="*", choices=METHODS, help="default: all")
    add("--out", type=Path, help="folder of the figures")
    return parser.parse_args()


def name_of(problem: str) -> str:
    """Its name in titles and file names."""
    return Path(problem).name.replace(CURVES.suffix, "")


def open_table(problem: str) -> Table:
    if problem.removesuffix(NOISY) in PROBLEMS:
        return make_table(problem)
    path = Path(problem.removesuffix(AVERAGED))
    return read_table(path, is_averaged=problem.endswith(AVERAGED))


def run(job: tuple[str, str, int, int, float]) -> Floats:
    """Hypervolume shares, and the best mIoU within sizes (1+len(SIZES_KB),GRID), by budget."""
    problem, name, seed, workers, budget = job
    logging.disable(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    table = open_table(problem)
    events = list(simulate(METHODS[name](table, seed), table, workers, budget))
    found = np.zeros((1 + len(SIZES_KB), GRID))
    for step in range(GRID):
        spent = budget * (step + 1) / GRID
        points = [event.point for event in events if event.seconds <= spent]
        found[0, step] = table.hypervolume(points) / table.best
        found[1:, step] = [table.miou_within(points, 1000 * kb) for kb in SIZES_KB]
    return found


def summarize(curves: dict[str, Floats]) -> str:
    """What is reached at the end, and the part of the budget that levels take (medians).

    A level of all but the shares of the hypervolume is where random search ends.
    """
    heading = ["search", "hypervolume at the end"]
    heading += [f"to {share:.0%}" for share in SHARES]
    heading += ["to the end of random", "of seeds"]
    heading += [f"mIoU within {kilobytes:,} KB, to the end of random" for kilobytes in SIZES_KB]
    rows: list[list[object]] = []
    levels = np.median(curves["random"][:, :, -1], axis=0) if "random" in curves else None
    for name, each in curves.items():
        low, middle, high = np.percentile(each[:, 0, -1], (25, 50, 75))
        row: list[object] = [name, f"{middle:.4f} ({low:.4f} to {high:.4f})"]
        row += [share_of_budget(each[:, 0], share) for share in SHARES]
        if levels is None:
            row += ["-", "-"]
        else:
            row.append(share_of_budget(each[:, 0], float(levels[0])))
            row.append(f"{(each[:, 0, -1] >= levels[0]).mean():.0%}")
        for number, mious in enumerate(each.transpose(1, 0, 2)[1:], 1):
            end = float(np.median(mious[:, -1]))
            level = 0.0 if levels is None else float(levels[number])
            sooner = share_of_budget(mious, level) if level else "-"
            row.append(f"{100 * end:.1f}, {sooner}" if end else "-")
        rows.append(row)
    return markdown(heading, rows)


def share_of_budget(shares: Floats, level: float) -> str:
    """Median part of the budget after which a level is reached; of too few seeds, a dash."""
    steps = [
        (np.argmax(each >= level) + 1) / GRID if (each >= level).any() else np.inf
        for each in shares
    ]
    middle = float(np.median(steps))
    return f"{middle:.3f}" if np.isfinite(middle) else "-"


def draw(curves: dict[str, Floats], trainings: int, path: Path) -> None:
    """Hypervolume against device seconds: medians, and quartiles of the first and the last."""
    shown = [name for name in curves if name not in NOT_DRAWN]
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    spent = trainings * (np.arange(GRID) + 1) / GRID
    for number, name in enumerate(shown):
        low, middle, high = np.percentile(curves[name], (25, 50, 75), axis=0)
        style = "-" if name in OURS else "--"
        axes.plot(spent, middle, style, color=f"C{number}", label=name)
        if name in (shown[0], shown[-1]):
            axes.fill_between(spent, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
    worst = min(float(np.median(curves[name][:, GRID // 4])) for name in shown)
    axes.set(
        xscale="log",
        xlim=(1, trainings),
        ylim=(worst - 0.05, 1.005),
        xlabel="device seconds, in full trainings",
        ylabel="share of the best hypervolume",
    )
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=110)
