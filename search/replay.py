"""Asks the sampler of a study again for each trial, by what the journal said at that moment."""

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from search.foresight import Foresight
from search.journal import read_journal, read_lines, study_at
from search.memory import Memory
from search.objectives import named_objectives
from search.proposer import REPEATED, Proposer
from search.record import CONFIG, GAIN, VERSIONS, asked_trials, read_record, trial_name
from search.study_file import StudyFile, installed_versions
from trainables.artifacts import ArtifactStore
from trainables.config import RunConfig, TrialConfig
from trainables.data.pack import open_pack
from trainables.frozen import Leaf
from trainables.sensitivity import find_sensitivity, read_sensitivity

MOST = 64
"""Trials that are asked for again, evenly spread: each takes as long as the first time."""
CREATE, SET_STATE = 4, 6
"""Optuna's codes of operations in a journal."""


def why_not(file: StudyFile) -> str:
    """Why the sampler cannot be asked again, in words; "" where it can."""
    config = file.config
    if config.warm_start:
        return f"the earlier study {config.warm_start} may have gone on since"
    if config.wants_latency:
        return "latencies were measured when they were needed"
    if not pack_of(file).is_dir():
        return f"there is no packed data in {pack_of(file)} any more"
    return ""


def check_proposals(file: StudyFile, folder: Path) -> Iterator[str]:
    """What the sampler proposes otherwise now, in words.

    Only of trials that were asked for by the versions that are installed now.
    """
    if why_not(file):
        return
    lines, foresight = read_lines(folder), known_foresight(file)
    asked = asked_trials(read_journal(folder, file.config.name))
    places = decided_at(lines)
    chosen = {int(place) for place in np.linspace(0, len(asked) - 1, MOST) if asked}
    for trial in (asked[place] for place in sorted(chosen)):
        then = study_at(lines[: places[trial.number]], file.config.name)
        if CONFIG in trial.user_attrs and then.user_attrs.get(VERSIONS) == installed_versions():
            again = ask_again(then, file, foresight)
            if not are_same(again, trial.params):
                yield (
                    f"trial {trial_name(trial.number)} was asked for with {trial.params}, now it "
                    f"is with {again}"
                )


def decided_at(lines: list[dict[str, Any]]) -> dict[int, int]:
    """By its number the line of the journal before which a trial was decided on.

    That is when it was proposed, or where others had queued it when it was first asked.
    """
    places: dict[int, int] = {}
    created = 0
    for place, line in enumerate(lines):
        if line["op_code"] == CREATE:
            is_queued = line.get("state") == TrialState.WAITING
            if not is_queued or GAIN in line.get("user_attrs", {}):
                places[created] = place
            created += 1
        elif line["op_code"] == SET_STATE and line["state"] == TrialState.RUNNING:
            places.setdefault(line["trial_id"], place)
    return places


def ask_again(then: optuna.Study, file: StudyFile, foresight: Foresight) -> Mapping[str, Leaf]:
    """The parameters of the next trial of a study as it was then."""
    config = file.config
    memory = Memory(named_objectives(config.objectives), foresight.costs_cheaply)
    records = [read_record(trial) for trial in asked_trials(then)]
    for record in records:
        memory.learn(record)
    proposer = Proposer(
        then,
        foresight.named.space,
        foresight.complete,
        config.budget,
        memory,
        config.sampler,
        config.seed,
        flat=config.stop_when_flat,
    )
    trial = proposer.ask(bool(records) and REPEATED in records[-1].reason)
    if trial is None:
        return {}
    with suppress(Exception):  # as a user's space may have raised then
        foresight.named.space(trial)
    return trial.params


def are_same(left: Mapping[str, Leaf], right: Mapping[str, Leaf]) -> bool:
    """But for the last digits, in which machines differ."""

    def is_same(one: Leaf, other: Leaf) -> bool:
        if isinstance(one, float) and isinstance(other, float):
            return math.isclose(one, other, rel_tol=1e-9)
        return one == other

    return left.keys() == right.keys() and all(is_same(left[n], right[n]) for n in left)


def pack_of(file: StudyFile) -> Path:
    return file.config.storage / "artifacts" / file.data_digest


def known_foresight(file: StudyFile) -> Foresight:
    """What the study's driver knew of its configurations."""
    config, data = file.config, open_pack(pack_of(file))
    store = ArtifactStore(pack_of(file).parent)
    foresight = Foresight(config, data.num_classes, (data.height, data.width), store)
    run = RunConfig(data=pack_of(file), artifacts=store.root, device=config.device)

    def start_of(trial: TrialConfig) -> TrialConfig:
        return foresight.complete(trial).start

    starts = {trial.student: start_of(trial) for trial in foresight.drawn() if trial.is_allocated}
    kept = {student: find_sensitivity(run, start) for student, start in starts.items()}
    foresight.sensitivities = {s: read_sensitivity(path) for s, path in kept.items() if path}
    return foresight
