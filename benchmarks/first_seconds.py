"""Seconds until a search says its first line and takes its first training step, in two revisions.

    git worktree add --detach ../before REVISION
    python -m benchmarks.first_seconds --before ../before --out first_seconds.md

Both revisions run with this interpreter and its packages, in turns, each time on an empty storage
and on the CPU. Seconds are wall time from the start of the process:

- to the first line on stdout, which is a pipe;
- to the first checkpoint below the storage's artifacts. The first training of the study is that of
  the teacher, and `--checkpoint-every 1ms` makes it keep a checkpoint after its first step.

The study is interrupted then.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.timing import describe_machine, markdown

STUDY = ["--space", "qkd", "--samples", "1", "--epochs", "1", "--image-size", "32"]
STUDY += ["--gpus-per-trial", "0", "--name", "first", "--checkpoint-every", "1ms"]
CHECKPOINT = "artifacts/.student-*-checkpoints/*.ckpt"
"""Below the storage; the same in both revisions."""
CHECKED_EVERY_S = 0.005
PATIENCE_S, LEAVING_S = 300.0, 60.0
"""For a search to take its first step, and for one that is interrupted to leave."""


class Seconds(NamedTuple):
    """Of one search, from the start of its process."""

    first_line: float
    first_step: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the older one")
    parser.add_argument("--after", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--repetitions", type=int, default=5, help="after one that is not counted")
    parser.add_argument("--out", type=Path, required=True, help="gets the table, as Markdown")
    arguments = parser.parse_args()
    revisions: dict[str, Path] = {"before": arguments.before, "after": arguments.after}
    measured: dict[str, list[Seconds]] = {name: [] for name in revisions}
    for repetition in range(arguments.repetitions + 1):
        for name in reversed(revisions) if repetition % 2 else revisions:
            seconds = measure(revisions[name])
            print(f"{name}: {seconds}" + ("" if repetition else ", not counted"), flush=True)
            if repetition:
                measured[name].append(seconds)
    text = (
        f"Measured on: {describe_machine(torch.device('cpu'))}, {os.cpu_count()} cores. Median "
        f"(least to greatest) of {arguments.repetitions}, in turns after one that is not counted.\n"
        "\n" + table({f"{name}, {commit(revisions[name])}": measured[name] for name in revisions})
    )
    arguments.out.write_text(text)
    print(text)


def measure(checkout: Path) -> Seconds:
    """Starts a search of a checkout on an empty storage, and interrupts it after its first step.

    Raises:
        RuntimeError: it ended before, or took too long; with what it said.
    """
    ignored = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")
    environment = {name: value for name, value in os.environ.items() if name not in ignored}
    environment["PYTHONPATH"] = str(checkout.resolve())
    lines: list[tuple[float, str]] = []
    with (
        tempfile.TemporaryDirectory(prefix="first-", ignore_cleanup_errors=True) as storage,
        tempfile.TemporaryFile("w+") as errors,
    ):
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "search.run", *STUDY, "--storage", storage],
            cwd=checkout,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        pipe = process.stdout
        assert pipe is not None
        reader = threading.Thread(
            target=lambda: lines.extend((time.perf_counter(), line) for line in pipe)
        )
        reader.start()
        try:
            while not list(Path(storage).glob(CHECKPOINT)):
                if process.poll() is not None or time.perf_counter() > begin + PATIENCE_S:
                    errors.seek(0)
                    said = "".join(line for _, line in lines) + errors.read()
                    raise RuntimeError(f"the search in {checkout} took no step: {said}")
                time.sleep(CHECKED_EVERY_S)
            step = time.perf_counter()
        finally:
            leave(process)
            reader.join()
    return Seconds(lines[0][0] - begin, step - begin)


def leave(process: subprocess.Popen[str]) -> None:
    """Interrupts a search as Ctrl-C does, and kills it where it does not leave."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(LEAVING_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def commit(checkout: Path) -> str:
    """The commit of a checkout."""
    argv = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def table(measured: Mapping[str, Sequence[Seconds]]) -> str:
    """A row for each revision."""
    rows: list[list[object]] = [
        [name, *(describe(values) for values in zip(*seconds, strict=True))]
        for name, seconds in measured.items()
    ]
    return markdown(["revision", "s to the first line", "s to the first training step"], rows)


def describe(values: Sequence[float]) -> str:
    """The median, and the range."""
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
