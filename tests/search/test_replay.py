"""The sampler says of each trial again what it said when the trial was asked for."""

import json
import math
import random
from pathlib import Path
from typing import Any, get_args

import pytest

from search.journal import JOURNAL
from search.replay import MOST, check_proposals, why_not
from search.sampler import SamplerName
from search.study import Study
from search.study_config import StudyConfig
from tests.search.test_searcher import report
from trainables.config import RunConfig
from trainables.trainable import FAILURE, PAUSE

pytestmark = pytest.mark.filterwarnings("error:The constraint value is ignored")

NUM_TRIALS, EPOCHS = 16, 3


@pytest.fixture
def study(request: pytest.FixtureRequest, blocks_folder: Path, tmp_path: Path) -> Study:
    """One whose trials end at random, two at a time, with a pause in the middle."""
    sampler = getattr(request, "param", "ehvi")
    config = StudyConfig.model_validate(
        {
            "space": "supervised",
            "data": str(blocks_folder),
            "name": "again",
            "storage": tmp_path,
            "samples": NUM_TRIALS,
            "epochs": EPOCHS,
            "image_size": 32,
            "teacher": "auto",
            "scheduler": "none",
            "sampler": sampler,
            "seed": 0,
            "max_size_bytes": 400_000,
            "gpus_per_trial": 0,
            "tracking_uri": f"sqlite:///{tmp_path / 'mlflow.db'}",
        }
    )
    study = Study(config, resumed=False)
    draw = random.Random(0)
    drive(study, draw, PAUSE)
    study.recover()
    drive(study, draw, None)
    return study


def drive(study: Study, draw: random.Random, last_word: str | None) -> None:
    """Trains in two places; half-way through with a last word that is not None."""
    run = RunConfig(data=study.data.path, artifacts=study.store.root)
    searcher = study.searcher(run, [], lambda: False, lambda: math.inf)
    running: list[str] = []
    for number in range(NUM_TRIALS):
        while len(running) < 2:
            trial_id = f"{last_word}{number}{len(running)}"
            if not isinstance(searcher.suggest(trial_id), dict):
                break
            running.append(trial_id)
        if not running:
            break
        trial_id = running.pop(draw.randrange(len(running)))
        miou = draw.uniform(0.2, 0.8)
        for epoch in range(1, EPOCHS):
            searcher.on_trial_result(trial_id, report(epoch, miou))
        ends: list[dict[str, Any]] = [report(EPOCHS, miou, draw.randrange(100_000, 300_000))] * 6
        searcher.on_trial_complete(trial_id, draw.choice([*ends, {FAILURE: "out of memory"}]))
        if last_word and number == NUM_TRIALS // 2:
            for trial_id in running:
                searcher.on_trial_complete(trial_id, {last_word: True})
            return


@pytest.mark.parametrize("study", get_args(SamplerName), indirect=True)
def test_every_proposal_is_the_same_again(study: Study) -> None:
    assert why_not(study.file) == ""
    assert len(study.records()) >= NUM_TRIALS
    assert len(study.records()) <= MOST
    assert list(check_proposals(study.file, study.config.folder)) == []


def test_another_proposal_is_noticed(study: Study) -> None:
    last, path = study.records()[-1].trial_id, study.config.folder / JOURNAL
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    rates = [line for line in lines if "learning_rate" in line.get("param_name", "")]
    rates[-1]["param_value_internal"] *= 1.001
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (found,) = check_proposals(study.file, study.config.folder)
    assert found.startswith(f"trial {last} was asked for with ")


def test_what_cannot_be_asked_again_is_not(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = study.config
    monkeypatch.setattr("search.replay.ask_again", pytest.fail)
    monkeypatch.setattr("search.replay.installed_versions", lambda: {"optuna": "another"})
    assert list(check_proposals(study.file, config.folder)) == []
    assert "earlier study first" in why_not(
        study.file.replace(config=config.replace(warm_start="first"))
    )
    assert "latencies" in why_not(study.file.replace(config=config.replace(max_latency_ms=1.0)))
    assert "no packed data" in why_not(
        study.file.replace(config=config.replace(storage=tmp_path / "elsewhere"))
    )
