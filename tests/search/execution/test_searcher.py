"""What the searcher tells Optuna about finished, stopped, crashed and refused trials."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from search.algorithms.observations import TrialHistory
from search.algorithms.problem import SamplerSettings, SearchProblem
from search.algorithms.successive_halving import SuccessiveHalving
from search.core.config import SamplerName
from search.core.constraints import Budget, Costs
from search.core.objectives import MIOU_AND_SIZE
from search.core.record import Record
from search.execution.resources import TrialResources
from search.execution.scheduler import ParetoHalving
from search.execution.searcher import ONE_CORE, RESOURCES, OptunaSearcher, SearchLimits
from search.storage.journal import open_journal
from search.storage.trials import asked_trials, read_record, record_of
from search.study.recovery import recover
from search.tracking.callbacks import Callback
from spaces import Space, load_space
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.metrics import Metrics
from trainables.models.configs import UNetConfig
from trainables.recipes.configs import Supervised
from trainables.trainable import FAILURE, METRICS, NO_ROOM, OTHER_STARTS, PAUSE

QKD = load_space("qkd").space


class Log:
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def started(self, record: Record) -> None:
        self.events.append(("started", record.trial_id))

    def reported(self, record: Record) -> None:
        self.events.append(("reported", record.trial_id))

    def ended(self, record: Record) -> None:
        self.events.append((record.state, record.trial_id))


def make(
    num_trials: int = 100,
    sampler: SamplerName = "tpe",
    space: Space = QKD,
    limit: int | None = None,
    study: optuna.Study | None = None,
    callbacks: Sequence[Callback] = (),
    seed: int = 0,
    improvement_bar: float | None = None,
    is_over: Callable[[], bool] = lambda: False,
    place: Callable[[Counter[TrialResources]], TrialResources | None] = lambda taken: ONE_CORE,
    shared_starts: Sequence[TrialConfig] = (),
) -> OptunaSearcher:
    if study is None:
        study = optuna.create_study(directions=[o.direction for o in MIOU_AND_SIZE])
    return OptunaSearcher(
        study,
        SearchProblem(
            space=space,
            complete=lambda config: config,
            predict_cost=predict_cost,
            predict_cost_if_known=predict_cost,
            budget=Budget(size_bytes=limit and 1000 * limit),
        ),
        SamplerSettings(sampler, seed, improvement_bar),
        SearchLimits(num_trials, is_over, place),
        run=ExecutionConfig(data=Path("data"), artifacts=Path("artifacts")),
        folder=Path("study"),
        callbacks=callbacks,
        shared_starts=shared_starts,
    )


def predict_cost(config: TrialConfig) -> Costs:
    return Costs(size_bytes=1000 * config.student.width, macs=1)


def report(epoch: int, miou: float = 0.5, size_bytes: int | None = None) -> dict[str, Any]:
    metrics = Metrics.model_construct(
        epoch=epoch,
        time_ms=epoch,
        miou=miou,
        pixel_accuracy=0.5,
        losses={"cross_entropy": 1.0},
        device_seconds=1.0,
        start_seconds=0.0,
        num_params=1,
        macs=1,
        predicted_size_bytes=1000,
        size_bytes=size_bytes,
    )
    return {METRICS: metrics.model_dump_json()}


def durable(folder: Path) -> optuna.Study:
    """A study on a disk; the one in memory skips trials that were paused."""
    return open_journal(folder, "study", MIOU_AND_SIZE)


def end(searcher: OptunaSearcher, trial_id: str, result: dict[str, Any] | None) -> None:
    """What Tune does when a trial ends; None: its process died once too often."""
    searcher.on_trial_complete(trial_id, result, error=result is None)
    if result is None:
        searcher.on_worker_lost(trial_id, "its process died too often")


def only_record(searcher: OptunaSearcher) -> Record:
    (trial,) = searcher.study.get_trials()
    return read_record(trial)


def test_a_suggestion_is_what_the_trainable_parses() -> None:
    suggestion = make().suggest("a")
    assert isinstance(suggestion, dict)
    assert TrialConfig.model_validate(suggestion["trial"]).recipe.name == "qat_distill"
    assert ExecutionConfig.model_validate(suggestion["run"]).artifacts == Path("artifacts")
    assert suggestion["out"] == "study/models/0000"
    assert suggestion["checkpoints"] == "study/checkpoints/0000"


def starts_of(*widths: int) -> list[TrialConfig]:
    """What trials of these widths start from."""
    study, starts = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)), []
    for width in widths:
        study.enqueue_trial({"student.width": width})
        start = QKD(study.ask()).start
        assert start
        starts.append(start)
    return starts


def test_a_trial_whose_start_another_may_train_knows_the_starts_that_nobody_trains() -> None:
    study = optuna.create_study(directions=[o.direction for o in MIOU_AND_SIZE])
    for width in (8, 8, 12, 8, 12):
        study.enqueue_trial({"student.width": width})
    starts = starts_of(4, 8, 12)
    searcher = make(study=study, shared_starts=starts)

    def others(trial_id: str) -> list[int]:
        """The widths of the other starts that a trial is told of."""
        suggestion = searcher.suggest(trial_id)
        assert isinstance(suggestion, dict)
        told = [TrialConfig.model_validate(start) for start in suggestion[OTHER_STARTS]]
        assert all(start in starts for start in told)
        return [start.student.width for start in told]

    assert [others("a"), others("b"), others("c")] == [[4, 12], [4, 12], [4]]
    searcher.on_trial_result("b", report(1))
    assert others("d") == []  # its start is there
    assert others("e") == [4]


def shared(study: optuna.Study, num_trials: int) -> tuple[OptunaSearcher, list[int]]:
    """A searcher of starts of the widths 4, 8 and 12, which is asked for trials of width 8."""
    for _ in range(num_trials):
        study.enqueue_trial({"student.width": 8})
    searcher = make(num_trials=num_trials, study=study, shared_starts=starts_of(4, 8, 12))
    told = []
    for number in range(num_trials):
        suggestion = searcher.suggest(str(number))
        assert isinstance(suggestion, dict)
        told.append(len(suggestion[OTHER_STARTS]))
    return searcher, told


def test_no_more_starts_are_trained_beside_than_there_are_trials_left() -> None:
    study = optuna.create_study(directions=[o.direction for o in MIOU_AND_SIZE])
    assert shared(study, 4)[1] == [2, 2, 1, 0]


def test_a_start_that_fails_is_not_trained_for_others() -> None:
    study = optuna.create_study(directions=[o.direction for o in MIOU_AND_SIZE])
    searcher, _ = shared(study, 3)
    assert len(searcher.untrained_starts) == 3
    searcher.on_trial_complete("0", {FAILURE: "not learning (its full-precision start)"})
    assert [start.student.width for start in searcher.untrained_starts.values()] == [4, 12]


def test_a_finished_trial_is_complete_with_its_last_values() -> None:
    searcher = make()
    searcher.suggest("a")
    searcher.on_trial_result("a", report(1, 0.9))
    searcher.on_trial_complete("a", report(2, 0.6, size_bytes=1000))
    record = only_record(searcher)
    assert (record.state, record.reason) == ("COMPLETE", "")
    assert searcher.study.get_trials()[0].values == [0.6, 1000]
    assert record.metrics is not None
    assert record.metrics.epoch == 2


def test_a_stopped_trial_is_pruned_without_values() -> None:
    searcher = make()
    searcher.suggest("a")
    searcher.on_trial_result("a", report(1, 0.9))
    searcher.on_trial_complete("a", report(2, 0.9))
    record = only_record(searcher)
    assert (record.state, record.reason) == ("PRUNED", "stopped before its last epoch")
    assert searcher.study.get_trials()[0].values is None
    assert record.values() is None


def test_a_trial_that_ray_ended_without_notice_is_pruned() -> None:
    searcher = make()
    searcher.suggest("a")
    searcher.on_trial_result("a", report(1))
    searcher.close()
    assert only_record(searcher).state == "PRUNED"


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (None, "its process died"),
        ({FAILURE: "not learning: mIoU 0.1"}, "not learning: mIoU 0.1"),
        ({FAILURE: "RuntimeError: boom"}, "RuntimeError: boom"),
    ],
)
def test_a_failed_trial_has_its_reason(result: dict[str, Any] | None, reason: str) -> None:
    searcher = make()
    searcher.suggest("a")
    searcher.on_trial_result("a", report(1, 0.9))
    end(searcher, "a", result)
    record = only_record(searcher)
    assert record.state == "FAIL"
    assert record.reason.startswith(reason)
    assert searcher.study.get_trials()[0].values is None


def test_a_nan_never_reaches_optuna_as_a_result() -> None:
    searcher = make()
    searcher.suggest("a")
    result = report(2, 0.5, size_bytes=1000)
    result[METRICS] = result[METRICS].replace('"miou":0.5', '"miou":NaN')
    searcher.on_trial_complete("a", result)
    record = only_record(searcher)
    assert record.state == "FAIL"
    assert record.reason.startswith("not finite")


def test_completing_twice_tells_once() -> None:
    searcher = make()
    searcher.suggest("a")
    searcher.on_trial_complete("a", report(2, 0.5, size_bytes=1000))
    searcher.on_trial_complete("a", None, error=True)
    assert only_record(searcher).state == "COMPLETE"


@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_no_trial_stays_running_past_the_sampler_s_start_up(sampler: SamplerName) -> None:
    log = Log()
    searcher = make(num_trials=24, sampler=sampler, callbacks=[log])
    endings = [
        report(2, 0.5, size_bytes=1000),
        report(1),
        None,
        {FAILURE: "not finite: loss"},
    ]
    for number in range(24):
        assert isinstance(searcher.suggest(str(number)), dict)
        end(searcher, str(number), endings[number % 4])
    assert searcher.suggest("24") == Searcher.FINISHED
    states = [trial.state for trial in searcher.study.get_trials()]
    assert states == 6 * [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.FAIL,
    ]
    assert [kind for kind, _ in log.events].count("started") == 24
    assert len(log.events) == 24 + 12 + 24


def test_a_configuration_over_budget_is_never_suggested() -> None:
    searcher = make(num_trials=10, limit=4)
    for number in range(10):
        suggestion = searcher.suggest(str(number))
        assert isinstance(suggestion, dict)
        assert suggestion["trial"]["student"]["width"] == 4
        searcher.on_trial_complete(str(number), report(2, 0.5, size_bytes=1000))
    records = [read_record(trial) for trial in searcher.study.get_trials()]
    refused = [record for record in records if record.reason.startswith("over budget")]
    assert refused
    assert all(record.state == "PRUNED" and record.config for record in refused)
    assert all((record.predicted_size_bytes or 0) > 4000 for record in refused)
    assert sum(record.state == "COMPLETE" for record in records) == 10


def test_the_sampler_learns_what_is_over_the_budget() -> None:
    def wide(space: Space, limit: int | None) -> float:
        searcher = make(num_trials=40, space=space, limit=limit)
        for number in range(40):
            searcher.suggest(str(number))
            searcher.on_trial_complete(str(number), report(2, 0.5, size_bytes=1000))
        trials = searcher.study.get_trials()[20:]
        return sum(trial.params["student.width"] > 4 for trial in trials) / len(trials)

    assert wide(QKD, limit=4) < 0.6 * wide(QKD, limit=None)


@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_a_space_that_raises_costs_its_trials_alone(sampler: SamplerName) -> None:
    working = load_space("supervised").space
    calls = []

    def moody(trial: optuna.Trial) -> TrialConfig:
        calls.append(trial)
        if len(calls) % 2:
            raise KeyError("bad mood")
        return working(trial)

    searcher = make(space=moody)
    assert isinstance(searcher.suggest("a"), dict)
    first = read_record(searcher.study.get_trials()[0])
    assert (first.state, first.config) == ("FAIL", None)
    assert first.reason == "the space failed: KeyError: 'bad mood'"


def test_a_space_that_always_raises_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.execution.searcher.MAX_REFUSALS", 5)

    def broken(trial: optuna.Trial) -> TrialConfig:
        raise ValueError("broken")

    searcher = make(space=broken)
    assert searcher.suggest("a") == Searcher.FINISHED
    assert len(searcher.study.get_trials()) == 5


def test_queued_settings_do_not_repeat_the_other_parameters() -> None:
    searcher = make(sampler="random")
    for bits in (8, 4, 2):
        searcher.study.enqueue_trial({"recipe.quantizer.weight_bits": bits})
    rates = {
        suggestion["trial"]["recipe"]["optimizer"]["learning_rate"]
        for suggestion in map(searcher.suggest, "abc")
        if isinstance(suggestion, dict)
    }
    assert len(rates) == 3


@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_the_same_seed_suggests_the_same(sampler: SamplerName) -> None:
    def configurations(seed: int) -> list[object]:
        searcher = make(sampler=sampler, seed=seed)
        suggestions = []
        for number in range(15):
            suggestion = searcher.suggest(str(number))
            assert isinstance(suggestion, dict)
            suggestions.append(suggestion["trial"])
            miou = suggestion["trial"]["recipe"]["optimizer"]["learning_rate"] * 100
            searcher.on_trial_complete(str(number), report(2, miou, size_bytes=1000))
        return suggestions

    first = configurations(0)
    assert configurations(0) == first
    assert configurations(1) != first


def scheduled(searcher: OptunaSearcher, confidence_width: float = 0) -> ParetoHalving:
    return ParetoHalving(
        searcher.minimized_values,
        max_epochs=9,
        confidence_width=confidence_width,
        keep=searcher.record_decision,
        name_of=searcher.name_of,
    )


def answer(
    searcher: OptunaSearcher, scheduler: ParetoHalving, trial: str, epoch: int, miou: float
) -> bool:
    """What Tune does with a result; whether the trial goes on."""
    result = {**report(epoch, miou), "training_iteration": epoch}
    asked: Any = SimpleNamespace(trial_id=trial)
    if scheduler.on_trial_result(None, asked, result) == TrialScheduler.STOP:
        searcher.on_trial_complete(trial, result)
        return False
    searcher.on_trial_result(trial, result)
    return True


def test_a_halved_trial_is_pruned_with_its_rung_values() -> None:
    searcher = make(space=load_space("supervised").space)
    scheduler = scheduled(searcher)
    for trial in "abc":
        searcher.suggest(trial)
    assert answer(searcher, scheduler, "a", 1, 0.9)
    decisions = [answer(searcher, scheduler, trial, 1, 0.1) for trial in "bc"]
    records = [read_record(trial) for trial in searcher.study.get_trials()]
    width = [record.config.student.width if record.config else 0 for record in records]
    assert decisions == [width[1] < width[0], width[2] < min(width[:2])]
    for record, promoted in zip(records[1:], decisions, strict=True):
        (decision,) = record.rung_decisions
        assert decision.minimized_values[0] == -0.1
        assert decision.promoted == promoted
        assert promoted or (record.state, record.reason) == (
            "PRUNED",
            "stopped after epoch 1: others promise more",
        )


@pytest.mark.parametrize("confidence_width", [0, 1])
def test_a_resumed_searcher_and_scheduler_go_on_as_if_nothing_had_happened(
    confidence_width: float,
) -> None:
    def fill(searcher: OptunaSearcher, scheduler: ParetoHalving, numbers: range) -> list[object]:
        seen: list[object] = []
        for number in numbers:
            suggestion = searcher.suggest(str(number))
            assert isinstance(suggestion, dict)
            miou = 0.1 + 0.01 * (number * 7 % 13)
            seen.append((suggestion["trial"], answer(searcher, scheduler, str(number), 1, miou)))
            if seen[-1][1]:  # type: ignore[index]
                answer(searcher, scheduler, str(number), 3, miou + 0.1)
            if str(number) in searcher.asked:
                end = {**report(9, miou + 0.2, size_bytes=1000), "training_iteration": 9}
                asked: Any = SimpleNamespace(trial_id=str(number))
                scheduler.on_trial_complete(None, asked, end)
                searcher.on_trial_complete(str(number), end)
        return seen

    whole = make(sampler="ehvi")
    expected = fill(whole, scheduled(whole, confidence_width), range(24))
    first = make(sampler="ehvi")
    cut = fill(first, scheduled(first, confidence_width), range(12))
    second = make(sampler="ehvi", study=first.study)
    scheduler = scheduled(second, confidence_width)
    records = [read_record(trial) for trial in first.study.get_trials()]
    scheduler.halving.replay(decision for record in records for decision in record.rung_decisions)
    assert cut + fill(second, scheduler, range(12, 24)) == expected


def test_no_configuration_is_trained_twice() -> None:
    def tiny(trial: optuna.Trial) -> TrialConfig:
        width = trial.suggest_int("student.width", 2, 6)
        return TrialConfig(student=UNetConfig(width=width), recipe=Supervised())

    for sampler in get_args(SamplerName):
        searcher = make(space=tiny, sampler=sampler)
        widths = []
        while isinstance(suggestion := searcher.suggest(str(len(widths))), dict):
            widths.append(suggestion["trial"]["student"]["width"])
            searcher.on_trial_complete(str(len(widths) - 1), report(2, 0.5, size_bytes=1000))
        assert sorted(widths) == [2, 3, 4, 5, 6]  # and then the space holds nothing new
        reasons = {read_record(t).reason for t in searcher.study.get_trials()} - {""}
        assert all(reason.startswith("not trained again: the same") for reason in reasons)


@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_a_paused_trial_is_the_first_to_go_on(sampler: SamplerName, tmp_path: Path) -> None:
    log = Log()
    first = make(sampler=sampler, callbacks=[log], study=durable(tmp_path))
    suggestions = [first.suggest(trial_id) for trial_id in "ab"]
    assert stop_files(suggestions) == [
        f"study/ray/leave/{ray_id}" for name, ray_id in (("0000", "a"), ("0001", "b"))
    ]
    first.on_trial_result("b", report(1, 0.9))
    first.on_trial_complete("a", {PAUSE: "asked to leave", "done": True})
    first.on_trial_complete("b", {PAUSE: "asked to leave", "done": True})
    assert log.events[-2:] == [("PAUSED", "0000"), ("PAUSED", "0001")]
    assert first.trials_left == 100
    second = make(sampler=sampler, study=first.study)
    again = [second.suggest(trial_id) for trial_id in "cd"]
    assert [file[-2:] for file in stop_files(again)] == ["/c", "/d"]
    assert again == suggestions
    second.on_trial_result("d", report(1, 0.1))  # repeated
    second.on_trial_result("d", report(2, 0.8))
    record = read_record(first.study.get_trials()[1])
    assert [metrics.miou for metrics in record.history] == [0.9, 0.8]
    assert record.ray_id == "d"


def stop_files(suggestions: Sequence[object]) -> list[str]:
    """Takes the file by which each trial may be asked to leave its node out of what it is told."""
    return [suggestion["run"].pop("stop_files")[0] for suggestion in suggestions]


def test_the_price_of_an_hour_is_kept() -> None:
    searcher = make(num_trials=1)
    for ray_id, price in (("a", 0.5), ("b", 0.25)):
        searcher.suggest(ray_id)
        searcher.price(ray_id, price)
        assert searcher.asked[ray_id].price_per_hour == price
        searcher.requeue(ray_id)
        assert read_record(searcher.study.get_trials()[0]).price_per_hour == price


class Comparison:
    """Compares the record that a searcher has kept at each event with what the journal holds."""

    def __init__(self, study: optuna.Study) -> None:
        self.study, self.num_events = study, 0

    def started(self, record: Record) -> None:
        self.num_events += 1
        assert record == record_of(self.study, int(record.trial_id))

    reported = ended = started


def test_the_records_that_a_searcher_keeps_are_those_of_the_journal(tmp_path: Path) -> None:
    study = durable(tmp_path)
    comparison = Comparison(study)
    searcher = make(study=study, limit=8, callbacks=[comparison])
    scheduler = scheduled(searcher)
    for trial_id in "abcdef":
        assert isinstance(searcher.suggest(trial_id), dict)
        answer(searcher, scheduler, trial_id, 1, 0.9 - 0.1 * len(searcher.asked))
    for trial_id, record in searcher.asked.items():
        assert record == record_of(study, int(record.trial_id)), trial_id
    first, second, *others = searcher.asked
    searcher.on_trial_complete(first, report(9, 0.5, size_bytes=1000))
    end(searcher, second, {FAILURE: "not learning: mIoU 0.1"})
    for trial_id in others:
        searcher.requeue(trial_id)
    resumed = make(study=study, callbacks=[comparison])
    for trial_id in "gh":
        assert isinstance(resumed.suggest(trial_id), dict)
        resumed.on_trial_result(trial_id, report(5, 0.5))
        resumed.on_trial_complete(trial_id, report(9, 0.5, size_bytes=1000))
    assert comparison.num_events > 20


def test_a_search_does_not_end_while_a_trial_may_still_pause(tmp_path: Path) -> None:
    over = [False]
    searcher = make(num_trials=1, study=durable(tmp_path), is_over=lambda: over[0])
    first = searcher.suggest("a")
    assert isinstance(first, dict)
    assert searcher.suggest("b") is None
    searcher.on_trial_complete("a", {PAUSE: "asked to leave"})
    again = searcher.suggest("c")
    assert isinstance(again, dict)
    assert stop_files([first, again]) == [f"study/ray/leave/{i}" for i in "ac"]
    assert again == first
    over[0] = True
    assert searcher.suggest("d") == Searcher.FINISHED
    over[0] = False
    searcher.on_trial_complete("c", report(9, 0.5, size_bytes=1000))
    assert searcher.suggest("d") == Searcher.FINISHED


@pytest.mark.parametrize("sampler", get_args(SamplerName))
@pytest.mark.parametrize("num_params", [0, 2, 5])
def test_a_driver_that_dies_while_asking_changes_nothing(
    sampler: SamplerName, num_params: int, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    def deadly(trial: optuna.Trial) -> TrialConfig:
        if not num_params:
            raise Killed
        config = QKD(trial)
        raise AssertionError(config)

    def ask(searcher: OptunaSearcher, numbers: range) -> list[object]:
        asked: list[object] = []
        for number in numbers:
            suggestion = searcher.suggest(str(number))
            assert isinstance(suggestion, dict)
            asked.append(suggestion["trial"])
            searcher.on_trial_complete(str(number), report(2, 0.1 * (number % 3), 1000))
        return asked

    expected = ask(make(sampler=sampler), range(6))
    first = make(sampler=sampler, study=durable(tmp_path))
    begun = ask(first, range(3))
    storage: Any = first.study._storage
    with pytest.MonkeyPatch.context() as patch:
        set_param, left = storage.set_trial_param, [num_params]

        def counted(*args: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            set_param(*args)

        patch.setattr(storage, "set_trial_param", counted)
        first.problem = replace(first.problem, space=deadly if not num_params else QKD)
        with pytest.raises(Killed):
            first.suggest("3")
    after = recover(first.study, records_of(first.study), None, first.history, MIOU_AND_SIZE)
    assert all(record.ray_id is not None for record in after)
    assert len(after) == len(begun)
    again = make(sampler=sampler, study=first.study)
    assert begun + ask(again, range(3, 6)) == expected


def test_a_full_disk_ends_the_search_and_loses_nothing(tmp_path: Path) -> None:
    searcher = make(study=durable(tmp_path))
    searcher.suggest("a")
    searcher.on_trial_complete("a", {PAUSE: "the disk is full", NO_ROOM: "the disk is full"})
    assert searcher.suggest("b") == Searcher.FINISHED
    assert searcher.no_room == "the disk is full"
    assert only_record(searcher).state == "PAUSED"


def records_of(study: optuna.Study) -> list[Record]:
    """All trials that were asked for, as the journal has them."""
    return [read_record(trial) for trial in asked_trials(study)]


def test_what_a_dead_driver_left_is_ended_or_queued(tmp_path: Path) -> None:
    """Each trial as it is between two steps of the driver, and as it would have gone on."""
    searcher = make(sampler="random", study=durable(tmp_path))
    scheduler = scheduled(searcher, confidence_width=0)
    for trial_id, width in zip("abcdef", (4, 6, 8, 12, 4, 8), strict=True):
        searcher.study.enqueue_trial({"student.width": width})
        searcher.suggest(trial_id)
    searcher.on_trial_result("a", report(9, 0.9, size_bytes=1000))  # not told yet
    answer(searcher, scheduler, "b", 1, 0.9)
    searcher.on_trial_result("c", report(1, 0.0))  # the scheduler was not asked yet
    searcher.minimized_values("d", report(1, 0.0))
    searcher.on_trial_result("e", report(1, 0.0))
    halving = SuccessiveHalving((1, 3), 9, 3, confidence_width=0)
    records = records_of(searcher.study)
    halving.replay(decision for record in records for decision in record.rung_decisions)
    history = TrialHistory(MIOU_AND_SIZE, predict_cost)
    recovered = recover(searcher.study, records, halving, history, MIOU_AND_SIZE)
    records = records_of(searcher.study)
    assert recovered == records
    assert [record.state for record in records] == [
        "COMPLETE",
        "PAUSED",
        "PRUNED",  # worse and larger than b
        "PRUNED",
        "PAUSED",  # as bad, but the smallest at this rung
        "PAUSED",
    ]
    decisions = [
        [decision.promoted for decision in record.rung_decisions] for record in records[1:]
    ]
    assert decisions == [[True], [False], [False], [True], []]
    for record in records[2:4]:
        assert record.reason == "stopped after epoch 1: others promise more"
    assert searcher.study.get_trials()[0].values == [0.9, 1000]


def test_nothing_is_asked_when_the_time_is_over_or_the_cluster_full() -> None:
    room, over = [2], [False]
    half = TrialResources(cpus=3, gpus=0.5, accelerator="L4")
    searcher = make(
        place=lambda taken: half if taken[half] < room[0] else None, is_over=lambda: over[0]
    )
    asked = searcher.suggest("a")
    assert isinstance(asked, dict)
    assert asked[RESOURCES] == {"CPU": 3, "GPU": 0.5, "accelerator_type:L4": 0.001}
    assert (asked["run"]["num_threads"], asked["run"]["gpu_share"]) == (3, 0.5)
    assert isinstance(searcher.suggest("b"), dict)
    assert searcher.suggest("c") is None
    room[0] = 3  # a node has joined
    assert isinstance(searcher.suggest("c"), dict)
    searcher.on_trial_complete("a", report(2, 0.5, size_bytes=1000))
    over[0] = True
    assert searcher.suggest("d") == Searcher.FINISHED
    assert len(searcher.study.get_trials()) == 3


def test_a_search_whose_acquisition_values_stay_low_ends() -> None:
    def asked(flat: float | None) -> int:
        searcher = make(sampler="ehvi", improvement_bar=flat, num_trials=30)
        number = 0
        while isinstance(searcher.suggest(str(number)), dict):
            searcher.on_trial_complete(str(number), report(2, 0.5, size_bytes=4000))
            number += 1
        return number

    assert 8 < asked(0.2) < 30
    assert asked(None) == 30


def test_a_failure_in_the_last_epoch_keeps_its_reason() -> None:
    searcher = make()
    scheduler = scheduled(searcher)
    searcher.suggest("a")
    result = {FAILURE: "not learning: mIoU 0.1", "training_iteration": 9, "done": True}
    asked: Any = SimpleNamespace(trial_id="a")
    scheduler.on_trial_complete(None, asked, result)
    searcher.on_trial_complete("a", result)
    assert only_record(searcher).reason == "not learning: mIoU 0.1"


def test_a_space_that_raises_now_and_then_is_searched_to_the_end() -> None:
    def moody(trial: optuna.Trial) -> TrialConfig:
        config = QKD(trial)
        if config.student.width == 6:
            raise ValueError("not this width")
        return config

    searcher = make(space=moody, sampler="ehvi", num_trials=20)
    for number in range(20):
        assert isinstance(searcher.suggest(str(number)), dict)
        searcher.on_trial_complete(str(number), report(9, 0.1 + 0.01 * number, size_bytes=1000))
    assert searcher.suggest("20") == Searcher.FINISHED


def test_why_nothing_more_is_asked_is_said() -> None:
    searcher = make(is_over=lambda: True)
    assert searcher.suggest("a") == Searcher.FINISHED
    assert searcher.end == "the time is over"
