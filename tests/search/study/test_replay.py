"""The sampler proposes each trial again as it did when the trial was asked for."""

import json
import random
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from factories import make_config, make_metrics
from study_factories import open_new_study, open_stored_study

from search.algorithms import proposer
from search.algorithms.successive_halving import SuccessiveHalving
from search.core.config import SamplerName, StudyConfig
from search.execution.searcher import ONE_CORE, OptunaSearcher
from search.execution.session import RemoteRunner
from search.storage.layout import JOURNAL
from search.storage.trials import OF_BATCH
from search.study.builders import build_searcher
from search.study.prerequisites import measure_sensitivities
from search.study.recovery import recover_study, replay_decisions
from search.study.replay import NotReplayable, decided_at, replay
from search.study.study import Study, read_records
from search.tracking.console import ConsoleProgress
from trainables.config import ExecutionConfig
from trainables.quantization.mixed_precision import CHOICES, uniform_minimum_sensitivity
from trainables.quantization.prepare import quantizable_names
from trainables.trainable import FAILURE, METRICS, PAUSE
from trainables.training.sensitivity import FILE

pytestmark = pytest.mark.filterwarnings("error:The constraint value is ignored")

NUM_TRIALS, EPOCHS = 16, 3


def config_of(storage: Path, data: Path, **changes: object) -> StudyConfig:
    fixed: dict[str, object] = {"samples": NUM_TRIALS, "epochs": EPOCHS, "sampler": "ehvi"}
    return make_config(storage, data, **{**fixed, "max_size_bytes": 400_000, **changes})


def trained(config: StudyConfig, later: StudyConfig | None = None) -> Study:
    """A study whose trials end at random, two at a time, resumed in the middle."""
    draw = random.Random(0)
    study = open_new_study(config)
    drive(study, draw, NUM_TRIALS // 2)
    study.lock.release()
    study = open_stored_study(later or config)
    recover_study(study)
    drive(study, draw, NUM_TRIALS)
    return study


def drive(study: Study, draw: random.Random, num_trials: int, num_places: int = 2) -> None:
    """Trains so many trials in a few places, and pauses what then runs."""
    run = ExecutionConfig(data=study.data.path, artifacts=study.store.root)
    searcher = build_searcher(study, run, [], lambda: False, lambda _: ONE_CORE)
    halving = replay_decisions(study.config, read_records(study))
    running: list[str] = []
    for number in range(num_trials):
        while len(running) < num_places and searcher.trials_left:
            running.append(f"{study.lock}{number}{len(running)}")
            assert isinstance(searcher.suggest(running[-1]), dict)
        if not running:
            return
        train(searcher, halving, running.pop(draw.randrange(len(running))), draw)
    for trial_id in running:
        searcher.on_trial_complete(trial_id, {PAUSE: True})


def train(
    searcher: OptunaSearcher, halving: SuccessiveHalving | None, trial_id: str, draw: random.Random
) -> None:
    """To the end, to a failure, or to a rung that it does not pass."""
    miou, size, name = draw.uniform(0.2, 0.8), draw.randrange(10**5), searcher.name_of(trial_id)
    for epoch in range(1, EPOCHS):
        result = {METRICS: make_metrics(miou, None, epoch).model_dump_json()}
        losses = searcher.minimized_values(trial_id, result)
        assert losses
        if halving and (decision := halving.report(name, epoch, losses)):
            searcher.record_decision(decision)
            if not decision.promoted:
                searcher.on_trial_complete(trial_id, result)
                return
    fails = draw.random() < 0.15
    finished = {METRICS: make_metrics(miou, size, EPOCHS).model_dump_json()}
    searcher.on_trial_complete(trial_id, {FAILURE: "out of memory"} if fails else finished)


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [*((sampler, "halving") for sampler in get_args(SamplerName)), ("ehvi", "none")],
)
def test_every_proposal_is_the_same_again(
    sampler: str, scheduler: str, blocks_folder: Path, tmp_path: Path
) -> None:
    study = trained(config_of(tmp_path, blocks_folder, sampler=sampler, scheduler=scheduler))
    again = replay(study.file, study.config.folder)
    assert again.differences == []
    assert again.num_compared == again.num_trials == len(read_records(study)) >= NUM_TRIALS
    has_decisions = any(record.rung_decisions for record in read_records(study))
    assert has_decisions == (scheduler == "halving")


def test_proposals_of_a_batch_are_the_same_again(
    blocks_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others of a batch are enqueued for the calls that follow, no more than are asked for."""
    monkeypatch.setattr(proposer, "RUNNING_EACH", 1)
    study = open_new_study(config_of(tmp_path, blocks_folder))
    drive(study, random.Random(0), NUM_TRIALS, num_places=6)
    assert study.journal
    trials = study.journal.get_trials()
    assert len(trials) == len(read_records(study)) >= NUM_TRIALS
    others = [t.number for t in trials if OF_BATCH in t.user_attrs]
    assert 3 <= len(others) < NUM_TRIALS
    again = replay(study.file, study.config.folder)
    assert again.differences == []
    assert again.num_trials == len(trials)
    assert again.num_compared == len(trials) - len(others)


def test_proposals_of_bits_by_layer_are_the_same_again(blocks_folder: Path, tmp_path: Path) -> None:
    """Also where starts are distilled: what their teacher was is not known any more."""
    config = config_of(tmp_path, blocks_folder, space="mixed_qkd")
    study = open_new_study(config)

    def measured(run: ExecutionConfig, prepare: partial[Path]) -> Path:
        (start,) = prepare.args
        names = quantizable_names(start.student.build(study.data.num_classes))
        gains = {name: {bits: 1 / bits for bits in CHOICES} for name in names}
        path = study.store.root / f"sensitivity-{start.student.digest()}" / FILE
        path.parent.mkdir(exist_ok=True)
        known = uniform_minimum_sensitivity(names).replace(weights=gains)
        path.write_text(known.model_dump_json())
        return path

    run = ExecutionConfig(data=study.data.path, artifacts=study.store.root)
    progress, remote = ConsoleProgress(config, [], 1), cast(RemoteRunner, measured)
    measure_sensitivities(study, progress, remote, run, lambda trainings, on_end: None)
    drive(study, random.Random(0), NUM_TRIALS)
    again = replay(study.file, config.folder)
    assert again.differences == []
    assert again.num_compared == NUM_TRIALS
    next(study.store.root.glob(f"sensitivity-*/{FILE}")).unlink()
    with pytest.raises(NotReplayable, match="no sensitivity is kept of"):
        replay(study.file, config.folder)


def test_another_proposal_is_noticed(blocks_folder: Path, tmp_path: Path) -> None:
    study = trained(config_of(tmp_path, blocks_folder))
    last, path = read_records(study)[-1].trial_id, study.config.folder / JOURNAL
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    rates = [line for line in lines if "learning_rate" in line.get("param_name", "")]
    rates[-1]["param_value_internal"] *= 1.001
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (found,) = replay(study.file, study.config.folder).differences
    assert found.startswith(f"trial {last} was asked for with ")


def test_trials_of_other_limits_or_versions_are_not_asked_for_again(
    blocks_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, blocks_folder)
    study = trained(config, config.replace(max_size_bytes=300_000))
    again = replay(study.file, config.folder)
    assert again.differences == []
    assert 0 < again.num_compared < again.num_trials
    monkeypatch.setattr("search.study.replay.proposed_by", lambda config: {"optuna": "another"})
    assert replay(study.file, config.folder).num_compared == 0


def test_one_that_was_asked_for_twice_is_not_asked_for_again() -> None:
    queued: dict[str, Any] = {"op_code": 4, "state": 4}
    asked = {"op_code": 6, "trial_id": 0, "state": 0}
    described = {"op_code": 8, "trial_id": 0, "user_attr": {"config": "{}"}}
    assert decided_at([queued, asked, described, asked]) == {0: 1}
    assert decided_at([queued, asked, asked, described]) == {}
    proposed = {**queued, "user_attrs": {"expected_gain": None}}
    assert decided_at([proposed, asked, described]) == {0: 0}
    at_once = {"op_code": 4}
    assert decided_at([at_once, described]) == {0: 0}
    assert decided_at([at_once, asked, described]) == {}


def test_why_a_sampler_cannot_be_asked_again(blocks_folder: Path, tmp_path: Path) -> None:
    study = open_new_study(config_of(tmp_path, blocks_folder))

    def reason(**changes: object) -> str:
        file = study.file.replace(config=study.config.replace(**changes))
        with pytest.raises(NotReplayable) as unknown:
            replay(file, study.config.folder)
        return str(unknown.value)

    assert "earlier study first" in reason(warm_start="first")
    assert "latencies" in reason(max_latency_ms=1.0)
    assert "elsewhere/artifacts/data-" in reason(storage=tmp_path / "elsewhere")
    assert "--space must name" in reason(space="gone")
    assert "no sensitivity is kept of" in reason(space="mixed")
    assert "no sensitivity is kept of" in reason(space="mixed_qkd")
