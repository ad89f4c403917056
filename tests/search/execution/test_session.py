"""What the driver is told of tasks that run in processes of Ray."""

import subprocess
import sys
from pathlib import Path

import pytest
from factories import make_config

from trainables.config import ExecutionConfig, TrialConfig
from trainables.models.configs import UNetConfig
from trainables.recipes.configs import AdamW, Supervised

PROGRAM = """
import sys
from search.execution.environment import prepare_environment
prepare_environment()
from search.core.config import StudyConfig
from search.execution.session import RemoteRunner, connect
from search.execution.shutdown import graceful_shutdown
from search.tracking.console import ConsoleProgress
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core import terminal
from trainables.training.setup import set_up_teacher

config, run, own = (
    kind.model_validate_json(text)
    for kind, text in zip((StudyConfig, ExecutionConfig, TrialConfig), sys.argv[1:])
)
with terminal.own_terminal(), graceful_shutdown(config.folder / ".stop") as shutdown:
    terminal.keep_log(config.folder / "log.txt")
    with connect(config.resume_arguments, shutdown):
        progress = ConsoleProgress(config, [], 1)
        remote = RemoteRunner(config, shutdown, progress.record, progress_every_s=0)
        set_up_teacher(run, "auto", own, progress.say, remote)
        tens = remote.each(run, lambda run, number: 10 * number, [(1,), (2,)])
        progress.say(f"of each {tens}")
"""


@pytest.mark.slow
def test_the_training_of_a_teacher_is_followed_from_the_driver(
    blocks_run: ExecutionConfig, blocks_folder: Path, tmp_path: Path
) -> None:
    config = make_config(tmp_path / "studies", blocks_folder)
    config.folder.mkdir(parents=True)
    own = TrialConfig(
        student=UNetConfig(width=6, depth=2),
        recipe=Supervised(optimizer=AdamW(learning_rate=1e-2)),
        num_epochs=60,
    )
    given = config, blocks_run.replace(artifacts=tmp_path / "artifacts"), own
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *(each.model_dump_json() for each in given)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "of each [10, 20]" in ended.stdout
    said = [line for line in ended.stdout.splitlines() if "training the teacher: epoch" in line]
    assert any(" of 60, about " in line for line in said)
    log = (config.folder / "log.txt").read_text().splitlines()
    assert [line[line.index("training") :] for line in said] == [
        line for line in log if line.startswith("training the teacher: epoch")
    ]
    assert [path.name for path in config.folder.iterdir()] == ["log.txt"]
