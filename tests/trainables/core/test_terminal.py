"""The output of libraries goes to a log instead of the terminal."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainables.core import terminal
from trainables.core.progress import progress_to

PROGRAM = """
import ctypes, logging, os, sys, warnings
from pathlib import Path
from trainables.core import terminal

libc = ctypes.CDLL(None)
with terminal.own_terminal():
    print("a library prints")
    terminal.print_error("ours, on stderr")
    assert terminal.log_file() is None
    terminal.keep_log(Path(sys.argv[1]))
    os.write(2, b"C++ writes\\n")
    warnings.warn("Pillow warns")
    logging.getLogger("ray").error("Ray logs")
    os.system("echo a process echoes")
    print("ours, on stdout", file=terminal.out())
    assert terminal.log_file() == Path(sys.argv[1])
print("everybody's again")
"""


def test_only_the_command_s_own_output_reaches_the_terminal(tmp_path: Path) -> None:
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


HANDLED = """
import sys
from pathlib import Path
from trainables.core import terminal

with terminal.own_terminal():
    terminal.keep_log(Path(sys.argv[1]))
    try:
        raise ValueError("bad")
    except ValueError:
        terminal.log_traceback()
"""


def test_the_log_has_the_traceback_of_an_error_that_is_handled(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    argv = [sys.executable, "-c", HANDLED, str(log)]
    ended = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("", "")
    assert "Traceback" in log.read_text()
    assert log.read_text().splitlines()[-2] == "ValueError: bad"


def test_a_full_disk_hides_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        @property
        def file(self) -> None:
            raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(terminal, "log", Full())
    terminal.write_log("a line")
    terminal.log_traceback()


FAILING = """
import os
from trainables.core import terminal
with terminal.own_terminal():
    print("a library prints")
    terminal.print_error("it failed")
    os._exit(3)
"""


def test_a_log_that_nobody_keeps_leaves_nothing(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FAILING],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "", "it failed\n")
    assert list(tmp_path.iterdir()) == []


ODD = """
import sys
from trainables.core import terminal
with terminal.own_terminal():
    terminal.print_error("no \\udcff here")
"""


def test_a_name_that_is_no_text_is_said(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", ODD], capture_output=True, text=True, check=True)
    assert ended.stderr == "no \\udcff here\n"


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_stream_is_no_error(closed: str) -> None:
    number = {"stdout": 1, "stderr": 2}[closed]
    ended = subprocess.run(
        [sys.executable, "-c", ODD],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        preexec_fn=lambda: os.close(number),
    )
    assert ended.returncode == 0


@pytest.mark.parametrize("verbosity", ["quiet", "normal", "verbose"])
def test_a_quiet_command_prints_warnings_and_results_alone(
    verbosity: terminal.Verbosity,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(terminal, "verbosity", "normal")
    terminal.set_verbosity(verbosity)
    terminal.print_step("checking")
    terminal.print_step("warning: a class is never predicted")
    terminal.print_line("the front")
    with progress_to(terminal.print_step, every_s=0):
        assert list(terminal.track([1, 2], "measuring")) == [1, 2]
    said = capsys.readouterr().out.splitlines()
    warned = ["warning: a class is never predicted", "the front"]
    if verbosity == "quiet":
        assert said == warned
    else:
        assert said[:3] == ["checking", *warned]
        assert said[3].startswith("measuring: part 1 of 2")
    flag = {"quiet": ["--quiet"], "normal": [], "verbose": ["--verbose"]}
    assert terminal.verbosity_flags() == flag[verbosity]
