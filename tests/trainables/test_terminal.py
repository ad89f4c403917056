"""The terminal is ours: what libraries write goes to a log."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import ctypes, logging, os, sys, warnings
from pathlib import Path
from trainables import terminal

libc = ctypes.CDLL(None)
with terminal.own_terminal():
    print("a library prints")
    terminal.complain("ours, on stderr")
    first = terminal.log_file()
    terminal.log_to(Path(sys.argv[1]))
    assert not first.exists()
    os.write(2, b"C++ writes\\n")
    warnings.warn("Pillow warns")
    logging.getLogger("ray").error("Ray logs")
    os.system("echo a process echoes")
    print("ours, on stdout", file=terminal.out())
    assert terminal.log_file() == Path(sys.argv[1])
print("everybody's again")
"""


def test_only_our_words_reach_the_terminal(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("from before\n")
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(log)], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "ours, on stdout\neverybody's again\n"
    assert ended.stderr == "ours, on stderr\n"
    lines = log.read_text().splitlines()
    assert lines[0] == "from before"
    for words in ("a library prints", "C++ writes", "Pillow warns", "Ray logs", "process echoes"):
        assert any(words in line for line in lines)


FAILING = """
from trainables import terminal
with terminal.own_terminal():
    print(terminal.log_file(), file=terminal.out())
    print("a library prints")
    raise SystemExit("it failed")
"""


def test_a_log_without_a_place_is_deleted() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FAILING], capture_output=True, text=True, check=False
    )
    (path,) = ended.stdout.splitlines()
    assert path.endswith(".log")
    assert not Path(path).exists()
    assert ended.stderr == "it failed\n"
