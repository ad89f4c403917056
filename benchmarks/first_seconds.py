"""Seconds to a search's first line, first training step and end, in two revisions.

    git worktree add --detach ../before REVISION
    python -m benchmarks.first_seconds --before ../before --out first_seconds.md

Both revisions run with this interpreter and its packages, in turns, on the CPU: on an empty
storage, then as a new study on the storage of a whole one, and then as that study, resumed. Seconds
are wall time from the start of the process:

- to the first line on stdout, which is a pipe;
- to the first checkpoint in the storage. On an empty one that is of the teacher, else of a trial;
  `--checkpoint-every 1ms` has each training keep one after its first step.

The study is interrupted then. `--commands` also runs the README's first command to its end.
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
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.timing import describe_machine, markdown

STUDY = ["--epochs", "1", "--gpus-per-trial", "0", "--checkpoint-every", "1ms"]
NEW = ["--space", "qkd", "--image-size", "32", *STUDY]
CHECKPOINTS = ("artifacts/.student-*-checkpoints/*.ckpt", "*/checkpoints/*/*.ckpt")
"""Below the storage; the same in both revisions."""
CHECKED_EVERY_S = 0.1
PATIENCE_S, LEAVING_S = 300.0, 60.0
"""For a search to take its first step, and for one that is interrupted to leave."""


class Seconds(NamedTuple):
    """Of the searches of a repetition, from the start of their processes."""

    first_line: float
    empty: float
    prepared: float
    resumed: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the older one")
    parser.add_argument("--after", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--repetitions", type=int, default=5, help="after one that is not counted")
    parser.add_argument("--commands", type=int, default=0, help="times, in turns")
    parser.add_argument("--out", type=Path, required=True, help="gets the table, as Markdown")
    arguments = parser.parse_args()
    revisions: dict[str, Path] = {"before": arguments.before, "after": arguments.after}
    measured: dict[str, list[Seconds]] = {name: [] for name in revisions}
    with tempfile.TemporaryDirectory(prefix="first-", ignore_cleanup_errors=True) as folder:
        storages = {name: Path(folder, name) for name in revisions}
        for name, checkout in revisions.items():
            search(checkout, storages[name], [*NEW, "--name", "whole", "--samples", "2"])
        for repetition in range(arguments.repetitions + 1):
            for name in reversed(revisions) if repetition % 2 else revisions:
                seconds = measure(revisions[name], storages[name], f"study-{repetition}")
                print(f"{name}: {seconds}" + ("" if repetition else ", not counted"), flush=True)
                if repetition:
                    measured[name].append(seconds)
    text = (
        f"Measured on: {describe_machine(torch.device('cpu'))}, {os.cpu_count()} cores. Median "
        f"(least to greatest) of {arguments.repetitions}, in turns after one that is not counted.\n"
        "\n" + table({f"{name}, {commit(revisions[name])}": measured[name] for name in revisions})
    )
    arguments.out.write_text(text)
    whole: dict[str, list[float]] = {name: [] for name in revisions}
    for number in range(arguments.commands):
        for name in reversed(revisions) if number % 2 else revisions:
            whole[name].append(command_seconds(revisions[name]))
            print(f"{name}: {whole[name][-1]:.0f} s for the first command", flush=True)
    if arguments.commands:
        rows: list[list[object]] = [
            [f"{name}, {commit(revisions[name])}", ", ".join(f"{each:.0f}" for each in seconds)]
            for name, seconds in whole.items()
        ]
        text += "\n" + markdown(["revision", "s of the first command"], rows)
        arguments.out.write_text(text)
    print(text)


def measure(checkout: Path, prepared: Path, name: str) -> Seconds:
    """The seconds of a search on an empty storage, a new one on a prepared one, and that resumed.

    Raises:
        RuntimeError: a search ended before, or took too long; with what it said.
    """
    with tempfile.TemporaryDirectory(prefix="first-", ignore_cleanup_errors=True) as empty:
        given = [*NEW, "--samples", "1", "--name", "first"]
        line, step = first_seconds(checkout, Path(empty), given)
    _, new = first_seconds(checkout, prepared, [*NEW, "--samples", "2", "--name", name])
    _, resumed = first_seconds(checkout, prepared, ["--resume", name, "--samples", "4"])
    return Seconds(line, step, new, resumed)


def search(checkout: Path, storage: Path, arguments: Sequence[str]) -> None:
    """Runs a search to its end."""
    subprocess.run(
        [sys.executable, "-m", "search.run", *arguments, "--storage", storage],
        cwd=checkout,
        env=environment(checkout),
        stdout=subprocess.DEVNULL,
        check=True,
    )


def command_seconds(checkout: Path) -> float:
    """Seconds of the README's first command, on an empty storage."""
    with tempfile.TemporaryDirectory(prefix="first-", ignore_cleanup_errors=True) as storage:
        begin = time.perf_counter()
        search(checkout, Path(storage), ["--space", "qkd"])
        return time.perf_counter() - begin


def environment(checkout: Path) -> dict[str, str]:
    """The variables of this process, for programs of a checkout."""
    ignored = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")
    kept = {name: value for name, value in os.environ.items() if name not in ignored}
    return {**kept, "PYTHONPATH": str(checkout.resolve())}


def first_seconds(checkout: Path, storage: Path, arguments: Sequence[str]) -> tuple[float, float]:
    """Starts a search, and interrupts it after its first step.

    Raises:
        RuntimeError: it ended before, or took too long; with what it said.
    """
    lines: list[tuple[float, str]] = []
    with tempfile.TemporaryFile("w+") as errors:
        begin, began_at = time.perf_counter(), time.time()
        process = subprocess.Popen(
            [sys.executable, "-m", "search.run", *arguments, "--storage", storage],
            cwd=checkout,
            env=environment(checkout),
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
            while not has_checkpoint(storage, began_at):
                if process.poll() is not None or time.perf_counter() > begin + PATIENCE_S:
                    errors.seek(0)
                    said = "".join(line for _, line in lines) + errors.read()
                    raise RuntimeError(f"the search in {checkout} took no step: {said}")
                time.sleep(CHECKED_EVERY_S)
            step = time.perf_counter()
        finally:
            leave(process)
            reader.join()
    return lines[0][0] - begin, step - begin


def has_checkpoint(storage: Path, since: float) -> bool:
    """Whether a training has written one since that time, in seconds since 1970."""
    for pattern in CHECKPOINTS:
        for path in storage.glob(pattern):
            with suppress(FileNotFoundError):  # it is just being replaced
                if path.stat().st_mtime >= since:
                    return True
    return False


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
    steps = [f"s to the first training step, {where}" for where in ("empty", "prepared", "resumed")]
    return markdown(["revision", "s to the first line", *steps], rows)


def describe(values: Sequence[float]) -> str:
    """The median, and the range."""
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
