"""Asks the sampler of a study again for each trial, given the journal at that moment."""

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.trial import TrialState

from search.algorithms.problem import SamplerSettings
from search.algorithms.proposer import Proposer
from search.storage.journal import read_lines, study_at
from search.storage.layout import artifact_folder
from search.storage.study_file import StudyFile, proposed_by
from search.storage.trials import (
    ACQUISITION_VALUE,
    CONFIG,
    OF_BATCH,
    PROPOSED_BY,
    asked_trials,
    read_sensitivities,
    trial_name,
)
from search.study.cost_model import CostModel
from trainables.config import ExecutionConfig
from trainables.core.artifacts import ArtifactStore, present
from trainables.core.command_line import one_line
from trainables.core.config_base import Leaf
from trainables.data.packed import open_pack
from trainables.models.configs import StudentConfig
from trainables.quantization.mixed_precision import Sensitivity
from trainables.training.evaluation import commonest_miou
from trainables.training.sensitivity import find_sensitivity, read_sensitivity

MAX_REPLAYED = 64
"""Trials that are asked for again, evenly spread: each takes as long as the first time."""
CREATE, SET_STATE, SET_USER_ATTR = 4, 6, 8
"""Optuna's codes of operations in a journal."""


class Replay(NamedTuple):
    """The trials that the sampler proposes differently now, and the number of compared trials."""

    differences: list[str]
    num_compared: int
    num_trials: int


def replay(file: StudyFile, folder: Path) -> Replay:
    """Asks again for the trials that were asked for under the present conditions of the sampler.

    Raises:
        NotReplayable: information that the sampler had is not available any more.
    """
    lines = read_lines(folder)
    study = study_at(lines, file.config.name)
    asked, cost_model = asked_trials(study), known_cost_model(file, study)
    places, now = decided_at(lines), proposed_by(file.config)
    chosen = {int(place) for place in np.linspace(0, len(asked) - 1, MAX_REPLAYED) if asked}
    differences, num_compared = [], 0
    for trial in (asked[place] for place in sorted(chosen)):
        if CONFIG not in trial.user_attrs or trial.number not in places:
            continue
        then = study_at(lines[: places[trial.number]], file.config.name)
        if then.user_attrs.get(PROPOSED_BY) != now:
            continue
        again = ask_again(then, file, cost_model)
        num_compared += 1
        if not are_same(again, trial.params):
            differences.append(
                f"trial {trial_name(trial.number)} was asked for with {trial.params}, now it is "
                f"with {again}"
            )
    return Replay(differences, num_compared, len(asked))


class NotReplayable(Exception):
    """A sampler cannot be asked again; the message says why."""


def decided_at(lines: list[dict[str, Any]]) -> dict[int, int]:
    """By trial number, the line of the journal before which the trial was sampled.

    A trial is sampled when it is proposed, or, if it was enqueued otherwise, when it is first asked
    for. Trials that were asked for twice, because a driver died in between, are left out: TPE may
    sample them differently. So are the others of a batch, which follow from its first.
    """
    places: dict[int, int] = {}
    begun, described, of_batches, created = set[int](), set[int](), set[int](), 0
    for place, line in enumerate(lines):
        number = line.get("trial_id", created)
        if line["op_code"] == CREATE:
            is_queued = line.get("state") == TrialState.WAITING
            attributes = line.get("user_attrs", {})
            if not is_queued or ACQUISITION_VALUE in attributes:
                places[created] = place
            if OF_BATCH in attributes:
                of_batches.add(created)
            if not is_queued:
                begun.add(created)
            created += 1
        elif line["op_code"] == SET_STATE and line["state"] == TrialState.RUNNING:
            if number not in of_batches:
                places.setdefault(number, place)
            if number in begun - described:
                places.pop(number, None)
            begun.add(number)
        elif line["op_code"] == SET_USER_ATTR and CONFIG in line["user_attr"]:
            described.add(number)
    return places


def ask_again(then: optuna.Study, file: StudyFile, cost_model: CostModel) -> Mapping[str, Leaf]:
    """The parameters of the next trial of a study as it was then."""
    config = file.config
    problem = cost_model.problem
    history = problem.new_history()
    history.update_all(then)
    proposer = Proposer(then, problem, history, SamplerSettings(config.sampler, config.seed))
    again = proposer.ask()
    assert again  # without an improvement bar there is always a next trial
    with suppress(Exception):  # a user's space may have raised at that time, too
        problem.space(again)
    return again.params


def are_same(left: Mapping[str, Leaf], right: Mapping[str, Leaf]) -> bool:
    """Whether parameters are equal up to the last digits, in which machines differ."""

    def is_same(one: Leaf, other: Leaf) -> bool:
        if isinstance(one, float) and isinstance(other, float):
            return math.isclose(one, other, rel_tol=1e-9)
        return one == other

    return left.keys() == right.keys() and all(is_same(left[n], right[n]) for n in left)


def known_cost_model(file: StudyFile, study: optuna.Study) -> CostModel:
    """The cost model that the study's driver had.

    Raises:
        NotReplayable: it cannot be built any more.
    """
    config = file.config
    if config.warm_start:
        raise NotReplayable(f"the earlier study {config.warm_start} may have gone on since")
    if config.wants_latency:
        raise NotReplayable("latencies were measured when they were needed")
    store = ArtifactStore(artifact_folder(config.storage))
    try:
        data = open_pack(store.root / file.data_digest)
        cost_model = CostModel(config, data.num_classes, (data.height, data.width), store)
        cost_model.commonest_miou = commonest_miou(data)
        pretraining_configs = cost_model.pretraining_configs()
    except (ValueError, OSError) as error:
        raise NotReplayable(one_line(error)) from error
    run = ExecutionConfig(data=data.path, artifacts=store.root, device=config.device)
    known: dict[StudentConfig, Sensitivity] = {}
    kept = read_sensitivities(study)
    for student, start in pretraining_configs.items():
        file_name = kept.get(student.digest())
        if file_name is None:  # as in a study of an earlier version
            path = find_sensitivity(run, start, config.quantizer_name)
        else:
            path = store.root / file_name
        if path is None or not present(path).exists():
            raise NotReplayable(f"no sensitivity is kept of {student.describe()}")
        known[student] = read_sensitivity(path)
    cost_model.sensitivities = known
    return cost_model
