"""Trains many configurations of a space to their end and keeps their curves in a Parquet file.

    python -m benchmarks.search_efficiency.record --data FOLDER --out curves.parquet

Without Ray, so that it runs on GPU machines that have none. What is trained is drawn at random, so
that the table favours no search. A killed run goes on where it stopped.
"""

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.search_efficiency.table import FLOOR
from search.algorithms.candidates import sample_config
from spaces import load_space
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.config_base import Leaf
from trainables.core.errors import TrialFailed
from trainables.data.packed import open_pack, pack_dataset
from trainables.data.registry import open_source
from trainables.teachers.output_cache import cache_outputs
from trainables.training.defaults import Defaults, defaults_for
from trainables.training.evaluation import commonest_miou
from trainables.training.teacher import prepare_teacher
from trainables.training.trial import Trial

Row = dict[str, Leaf | list[float]]


def main() -> None:
    arguments = parse()
    torch.set_num_threads(os.cpu_count() or 1)
    defaults = defaults_for(arguments.data, arguments.device)
    store = ArtifactStore(arguments.storage)
    data = pack_dataset(open_source(arguments.data, arguments.image_size, store.root), store)
    run = ExecutionConfig(data=data.path, artifacts=store.root, device=arguments.device)
    run = run.replace(num_threads=os.cpu_count() or 1)
    num_epochs = defaults.num_epochs(defaults.teacher_steps, len(open_pack(data.path).train))
    own = defaults.default_teacher_config(num_epochs)
    teacher = prepare_teacher(run, arguments.teacher, own)
    print(f"teacher: {teacher.note}, mIoU {100 * teacher.miou:.1f} %", flush=True)
    run = run.replace(teacher=teacher.file)
    kept = cache_outputs(run, "maps", defaults.augmentation)
    run = run.replace(teacher_outputs=kept, num_threads=1)
    drawn = [
        draw(arguments.space, number, arguments.epochs, defaults)
        for number in range(arguments.count)
    ]
    log = arguments.out.with_suffix(".jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {row["number"] for row in rows}
    spawn = get_context("spawn")
    with (
        ProcessPoolExecutor(arguments.workers, mp_context=spawn) as pool,
        log.open("a") as kept_log,
    ):
        jobs = [
            pool.submit(train_one, number, config, params, run)
            for number, (config, params) in enumerate(drawn)
            if number not in done
        ]
        for job in as_completed(jobs):
            rows.append(job.result())
            kept_log.write(json.dumps(rows[-1]) + "\n")
            kept_log.flush()
            print(f"{len(rows)} of {arguments.count}", flush=True)
    write_rows(rows, commonest_miou(open_pack(data.path)), arguments.out)


def write_rows(rows: Sequence[Row], floor: float, path: Path) -> None:
    """Writes rows by their numbers; parameters that a row does not have are null.

    `floor` is the mIoU of predicting the commonest class.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    whole = [
        {name: row.get(name) for name in names}
        for row in sorted(rows, key=lambda row: int(str(row["number"])))
    ]
    table = pa.Table.from_pylist(whole).replace_schema_metadata({FLOOR: str(floor)})
    pq.write_table(table, path, compression="zstd")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", required=True, help="shapes, or a folder in VOC layout")
    add("--space", default="qkd")
    add("--image-size", type=int, default=64)
    add("--epochs", type=int, default=12)
    add("--count", type=int, default=300, help="configurations")
    add("--teacher", default="auto")
    add("--storage", type=Path, default=Path("studies/artifacts"))
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--workers", type=int, default=os.cpu_count())
    add("--out", type=Path, required=True)
    return parser.parse_args()


def draw(
    space: str, number: int, epochs: int, defaults: Defaults
) -> tuple[TrialConfig, dict[str, Leaf]]:
    """One random configuration, completed as by a study, and its sampled parameters."""
    config, trial = sample_config(load_space(space).space, {}, seed=number)
    return defaults.complete(config, epochs, seed=0), trial.params


def train_one(
    number: int, config: TrialConfig, params: dict[str, Leaf], run: ExecutionConfig
) -> Row:
    """The curve of one configuration; `failure` says why it has no end."""
    curve, failure, last = [], "", None
    try:
        for last in Trial(config, run):
            curve.append(last)
    except TrialFailed as error:
        failure = str(error)
    return {
        "number": number,
        **params,
        "miou": [round(metrics.miou, 5) for metrics in curve],
        "seconds": [round(metrics.device_seconds, 3) for metrics in curve],
        "size_bytes": last.predicted_size_bytes if last else None,
        "macs": last.macs if last else None,
        "failure": failure,
    }


if __name__ == "__main__":
    main()
