"""Kills the driver of studies with SIGKILL, resumes them, and checks what is left.

    python -m benchmarks.reliability.sweep --kills 40 --out sweep.jsonl

With one trial at a time a study must end as one that nobody killed; with trials in parallel it must
have the same number of trials, none twice. `search.check` must find nothing. A killed sweep goes on
where it stopped; what was measured is printed as Markdown at the end.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.reliability.moments import MOMENTS, Watched, loss, rarest
from benchmarks.timing import describe_machine
from search.storage.journal import read_journal
from search.storage.layout import STUDY_FILE
from search.storage.trials import asked_trials, read_record

NAME = "killed"
SAMPLES = 5
NUM_LATE = 2
"""The last kills of a study, which alone may be near its end."""
LONGEST_S = 30.0
"""Until a kill that no moment is waited for."""
STUDY = ["--space", "qkd", "--image-size", "16", "--epochs", "3", "--samples", str(SAMPLES)]
STUDY += ["--name", NAME, "--checkpoint-every", "500ms"]
MODES = {"one at a time": ["--cpus-per-trial", "2"], "in parallel": ["--cpus-per-trial", "1"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40, help="in all")
    parser.add_argument("--kills-per-study", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    log: Path = arguments.out
    kept = log.with_suffix(".reference.json")
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    while count(rows) < arguments.kills:
        mode = list(MODES)[len(rows) % len(MODES)]
        rows.append(run_study(rows, mode, arguments.kills_per_study, kept))
        with log.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(json.dumps(rows[-1]), flush=True)
    print(f"\nMeasured on: {describe_machine(torch.device('cpu'))}\n")
    print("\n".join(table(rows)))


def count(rows: list[dict[str, Any]]) -> int:
    """The kills so far."""
    return sum(len(row["kills"]) for row in rows)


def run_study(rows: list[dict[str, Any]], mode: str, num_kills: int, kept: Path) -> dict[str, Any]:
    """One study, killed so many times, and all that is wrong with it.

    It is killed at the moments at which those before it were not. What it is when nobody kills it
    is in the file `kept`, or comes there.
    """
    number, resumes = len(rows), 0
    random_ = random.Random(number)
    before, wanted = Counter(m for row in rows for m in row["wanted"]), list[str]()
    storage = Path(tempfile.mkdtemp(prefix="sweep-"))
    folder, resumed, kills = storage / NAME, False, list[dict[str, Any]]()
    try:
        while True:
            argv = [*STUDY, *MODES[mode], "--storage", str(storage)]
            if resumed:
                argv = [*argv[:2], "--resume", NAME, "--storage", str(storage)]
                resumes += 1
            watched = Watched([sys.executable, "-m", "search.run", *argv], folder, resumed)
            if len(kills) == num_kills:
                watched.finish()
                break
            is_late = len(kills) >= num_kills - NUM_LATE
            wanted.append(rarest(before + Counter(wanted), folder, is_late))
            moment = watched.kill_at(wanted[-1], random_.uniform(0, LONGEST_S))
            if moment is None:
                break
            lost = loss(folder, watched.begin, time.time())
            kills.append({"moment": moment, **asdict(lost)})
            resumed = (folder / STUDY_FILE).exists()
            time.sleep(3)  # for Ray's processes to follow their driver
        problems = [*watched.problems(), *violations(folder, mode)]
        if mode == "one at a time":
            if not kept.exists():
                kept.write_text(json.dumps(reference(mode)))
            problems += differences(folder, json.loads(kept.read_text()))
        return {
            "study": number,
            "mode": mode,
            "kills": kills,
            "wanted": wanted,
            "resumes": resumes,
            "problems": problems,
        }
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def violations(folder: Path, mode: str) -> Iterator[str]:
    """What `search.check` finds, and trials too many, too few, or twice."""
    argv = [sys.executable, "-m", "search.check", str(folder)]
    checked = subprocess.run(argv, capture_output=True, text=True, check=False)
    if checked.returncode:
        yield from checked.stderr.splitlines()
    trained = outcome(folder)
    if len(trained) != SAMPLES:
        yield f"{len(trained)} trials instead of {SAMPLES}"
    if len({digest for digest, *_ in trained}) < len(trained):
        yield "a configuration was trained twice"


def outcome(folder: Path) -> list[list[object]]:
    """Configuration, state, mIoU and size of each trial that was launched."""
    records = [read_record(trial) for trial in asked_trials(read_journal(folder, NAME))]
    return [
        [
            record.config.digest() if record.config else None,
            record.state,
            record.metrics.miou if record.metrics else None,
            record.metrics.size_bytes if record.metrics else None,
        ]
        for record in records
        if record.ray_id
    ]


def reference(mode: str) -> list[list[object]]:
    """The outcome of the same study when nobody kills it."""
    with tempfile.TemporaryDirectory() as storage:
        argv = [*STUDY, *MODES[mode], "--storage", storage]
        subprocess.run([sys.executable, "-m", "search.run", *argv], check=True, capture_output=True)
        return outcome(Path(storage) / NAME)


def differences(folder: Path, expected: list[list[object]]) -> Iterator[str]:
    for found, wanted in zip(outcome(folder), expected, strict=False):
        if found != wanted:
            yield f"a trial is {found}, undisturbed it is {wanted}"


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Kills by moment, and what was wrong."""
    kills = [kill for row in rows for kill in row["kills"]]
    yield "| killed during | kills | seconds since last kept: mean | most | not kept yet |"
    yield "|---|---|---|---|---|"
    for moment in [*MOMENTS, "all"]:
        own = [kill for kill in kills if moment in ("all", kill["moment"])]
        lost = [kill["seconds"] for kill in own]
        if own:
            yield (
                f"| {moment} | {len(own)} | {sum(lost) / len(own):.1f} | {max(lost):.1f} | "
                f"{sum(kill['num_unkept'] for kill in own)} |"
            )
    yield ""
    for mode in MODES:
        own = [row for row in rows if row["mode"] == mode]
        num_kills = count(own)
        problems = [problem for row in own for problem in row["problems"]]
        yield (
            f"Trials {mode}: {len(own)} studies of {SAMPLES} trials, {num_kills} kills, "
            f"{sum(row['resumes'] for row in own)} resumes, {len(problems)} violations."
        )
        yield from (f"- {problem}" for problem in problems)


if __name__ == "__main__":
    main()
