"""Lists, verifies and deletes artifacts: packed data, teachers and their outputs, starts.

python -m trainables.cache list
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from trainables.core.artifact_record import find_damage
from trainables.core.artifacts import lock_file, read_artifact
from trainables.core.command_line import Parser, as_path

CONTENT = {
    "data": "packed data set",
    "unlabelled": "packed unlabelled images",
    "teacher": "teacher",
    "scores": "the teacher's scores by class",
    "outputs": "the teacher's outputs",
    "student": "trained network",
    "latency": "latency of a student",
    "speed": "seconds of a training step",
    "sharing": "images per second of trials that share a card",
    "sensitivity": "sensitivity of a student's layers",
}
UNFINISHED = "unfinished, by a killed process or one still at work"


def main(argv: list[str] | None = None) -> int:
    """Exit status 0: done; 1: an artifact is damaged; 2: bad input."""
    arguments = parse(argv)
    try:
        return run(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "python -m trainables.cache",
        "Look after artifacts: packed data, teachers and their outputs, starting students.\n"
        "All of them can be made again; do not delete those that a running study uses.",
    )
    parser.add_argument("command", choices=("list", "verify", "delete"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="artifacts (default: all of them)")
    parser.add_argument(
        "--artifacts",
        type=as_path,
        default=Path("studies/artifacts"),
        metavar="DIR",
        help="their folder (default: studies/artifacts)",
    )
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> int:
    folders = select_folders(arguments.artifacts, arguments.names)
    match arguments.command:
        case "list":
            show(folders)
        case "verify":
            return verify(folders)
        case _:
            if not arguments.names:
                raise ValueError("delete must be told the names of artifacts, but got none")
            for folder in folders:
                delete(folder)
    return 0


def select_folders(root: Path, names: list[str]) -> list[Path]:
    """The folders of the named artifacts, or of all."""
    if not root.is_dir():
        raise ValueError(f"--artifacts must be a folder of artifacts, but there is no {root}")
    there = {path.name: path for path in sorted(root.iterdir()) if path.is_dir()}
    kinds = tuple(f"{kind}-" for kind in CONTENT)
    there = {name: path for name, path in there.items() if name.lstrip(".").startswith(kinds)}
    if absent := [name for name in names if name not in there]:
        raise ValueError(f"an artifact must lie in {root}, but {absent[0]!r} does not")
    return [there[name] for name in names] if names else list(there.values())


def show(folders: list[Path]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("artifact", "size", "built in", "what it is"):
        table.add_column(heading, justify="right" if heading in ("size", "built in") else "left")
    total = 0
    for folder in folders:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        total += size
        seconds, content = describe_artifact(folder)
        table.add_row(folder.name, decimal(size), seconds, content)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print(f"{len(folders)} artifacts, {decimal(total)}")


def describe_artifact(folder: Path) -> tuple[str, str]:
    """The seconds it took to build, and a description of the content."""
    if folder.name.startswith("."):
        return "", UNFINISHED
    content = CONTENT[folder.name.split("-")[0]]
    try:
        artifact = read_artifact(folder)
    except (OSError, ValueError, KeyError):
        return "", f"{content}, damaged"
    detail = [
        str(artifact.key[name])
        for name in ("torchvision", "form", "quantizer")
        if name in artifact.key
    ]
    config = artifact.key.get("config")
    if isinstance(config, dict):
        detail = [config["recipe"]["name"], json.dumps(config["student"])]
    return f"{artifact.seconds:.0f} s", ", ".join([content, *detail])


def verify(folders: list[Path]) -> int:
    damaged = 0
    for folder in folders:
        damage = UNFINISHED if folder.name.startswith(".") else find_damage(folder)
        damaged += damage is not None and damage != UNFINISHED
        print(f"{folder.name}: {damage or 'whole'}", flush=True)
    return 1 if damaged else 0


def delete(folder: Path) -> None:
    """Removes an artifact, or the partial artifact of a killed build."""
    try:
        with FileLock(lock_file(folder), timeout=0):
            shutil.rmtree(folder)
    except Timeout as error:
        raise ValueError(f"{folder.name} must not be under construction, but it is") from error
    print(f"{folder.name}: deleted")


if __name__ == "__main__":
    sys.exit(main())
