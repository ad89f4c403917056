"""Reuse of recorded latencies that were measured under the same conditions."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pydantic import JsonValue

from search.core.config import StudyConfig
from search.core.record import Record
from search.storage.layout import STUDY_FILE
from search.storage.study_file import StudyFile, read_study_file
from search.study.cost_model import CostModel
from trainables.core.errors import NotExportable
from trainables.core.progress import announce
from trainables.core.terminal import track

Conditions = Mapping[str, JsonValue] | None
"""Conditions of latency measurements besides the network; None: unknown."""


def with_latencies_of_here(
    records: Sequence[Record], cost_model: CostModel, measured_under: Conditions
) -> list[Record]:
    """The records with the latencies of their students on this machine at this image size.

    Recorded latencies are reused if all conditions are the same. Others are measured again, for
    trials that were launched; the artifact store caches those measured here before. Of trials that
    were not launched none is known then. Trials whose students cannot be exported have no latency
    and are left out. Nothing changes where the study asks for no latency.
    """
    if not cost_model.config.wants_latency:
        return list(records)
    latencies, latency_key = cost_model.latencies, cost_model.latency_key
    are_of_here = measured_under == cost_model.latency_conditions()
    if are_of_here:
        for record in records:
            if record.config and record.latency_ms is not None:
                latencies[latency_key(record.config)] = record.latency_ms
                if record.latency_disturbed:
                    cost_model.disturbed.add(latency_key(record.config))
    launched = [record.config for record in records if record.config and record.ray_id]
    if unknown := [config for config in launched if latency_key(config) not in latencies]:
        announce(f"measuring the latencies of {len(unknown)} earlier trials")
        for config in track(unknown, "measuring latency"):
            with suppress(NotExportable):
                cost_model.latency_ms(config)
    found = []
    for record in records:
        if record.config and record.ray_id:
            if (latency_ms := latencies.get(latency_key(record.config))) is None:
                continue
            disturbed = cost_model.is_disturbed(record.config)
            record = replace(record, latency_ms=latency_ms, latency_disturbed=disturbed)
        elif not are_of_here:
            record = replace(record, latency_ms=None, latency_disturbed=False)
        found.append(record)
    return found


def check_latencies(known: StudyFile | None, config: StudyConfig, now: Conditions) -> None:
    """Raises ValueError where Optuna's sampler would read latencies of other conditions.

    It reads the journal, where latencies stay as they were recorded.
    """
    reads_journal = config.sampler in ("tpe", "nsga2")
    if known and config.wants_latency and reads_journal and known.latency_conditions != now:
        raise ValueError(
            f"a resumed study with --sampler {config.sampler} must keep the conditions of its "
            f"latencies, but they were {describe_conditions(known.latency_conditions)}, and are "
            f"now {describe_conditions(now)}: begin another with --warm-start {known.config.name}"
        )


def describe_conditions(conditions: Conditions) -> str:
    """The conditions in a line."""
    known = conditions or {}
    return ", ".join(f"{name} {value}" for name, value in known.items()) or "unknown"


def shared_conditions(known: StudyFile | None, now: Conditions) -> Conditions:
    """The conditions of all latencies of a study that starts or is resumed now.

    They are None once it was resumed under other conditions: no later driver reuses its latencies.
    """
    return now if known is None or known.latency_conditions == now else None


def read_conditions(storage: Path, name: str | None, num_classes: int) -> Conditions:
    """The conditions of all latencies of an earlier study; None also if its classes differ."""
    if name is None or not (storage / name / STUDY_FILE).is_file():
        return None
    earlier = read_study_file(storage / name, "--warm-start")
    return earlier.latency_conditions if len(earlier.class_names) == num_classes else None
