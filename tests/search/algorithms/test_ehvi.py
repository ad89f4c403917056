"""What the sampler proposes on a problem whose answer is known."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search.algorithms import ehvi
from search.algorithms.candidates import Distributions, sample_config
from search.algorithms.ehvi import (
    MAX_ROWS,
    NUM_START,
    CostsOf,
    Proposal,
    encode,
    expected_hypervolume_improvement,
    nondominated,
    propose,
    shift_to_current_level,
)
from search.algorithms.observations import Observation
from spaces import Space
from trainables.config import TrialConfig
from trainables.models.configs import UNetConfig
from trainables.recipes.configs import AdamW, Supervised

RATE, WIDTH = "recipe.optimizer.learning_rate", "student.width"


def space(trial: optuna.Trial) -> TrialConfig:
    return TrialConfig(
        student=UNetConfig(width=trial.suggest_int(WIDTH, 2, 20)),
        recipe=Supervised(
            optimizer=AdamW(learning_rate=trial.suggest_float(RATE, 1e-5, 1e-1, log=True))
        ),
    )


def cost(config: TrialConfig) -> tuple[float, ...]:
    return (1000.0 * config.student.width,)


def miou(config: TrialConfig) -> float:
    """Best at a learning rate of 1e-3, and with width."""
    rate = config.recipe.learning_rate or 1.0
    return max(0.0, 0.5 + 0.01 * config.student.width - 0.1 * abs(math.log10(rate) + 3))


def observations(count: int, level: float = 0.0, seed: int = 0) -> list[Observation]:
    drawn = [sample_config(space, {}, seed + number) for number in range(count)]
    return [Observation(d.params, d.distributions, cost(c), {}, miou(c) + level) for c, d in drawn]


def propose_one(
    space: Space,
    known: list[Observation],
    earlier: list[Observation],
    costs_of: CostsOf,
    random: np.random.Generator,
    least_miou: float = 0.0,
) -> Proposal:
    (proposal,) = propose(space, known, earlier, costs_of, random, least_miou)
    return proposal


def proposals(known: list[Observation], earlier: list[Observation]) -> list[TrialConfig]:
    found = []
    for seed in range(30):
        proposal = propose_one(space, known, earlier, cost, np.random.default_rng(seed))
        if proposal.acquisition_value is not None:
            assert proposal.acquisition_value >= 0
            found.append(sample_config(space, proposal.params)[0])
    assert len(found) > 20  # few stay random
    return found


def mean_distance(configs: list[TrialConfig]) -> float:
    return float(
        np.mean([abs(math.log10(config.recipe.learning_rate or 1.0) + 3) for config in configs])
    )


def test_the_first_proposals_are_the_cheapest_then_far_apart_in_cost() -> None:
    known: list[Observation] = []
    for seed in range(NUM_START):
        proposal = propose_one(space, known, [], cost, np.random.default_rng(seed))
        assert proposal.acquisition_value is None
        config, drawn = sample_config(space, proposal.params, seed)
        known.append(Observation(drawn.params, drawn.distributions, cost(config)))
    widths = [each.costs[0] / 1000 for each in known]
    assert widths[0] <= 3
    assert widths[1] >= 19
    assert len(set(widths)) == NUM_START


def test_good_learning_rates_are_found() -> None:
    assert mean_distance(proposals(observations(40), [])) < 0.6  # at random it is 1


def test_of_many_trials_the_latest_are_learned_from() -> None:
    """Those before them have failed: not even as points do they count."""
    latest = observations(MAX_ROWS)
    before = [replace(each, final=0.0, failed=True) for each in observations(20, seed=1000)]

    def proposal(known: list[Observation]) -> Proposal:
        return propose_one(space, known, [], cost, np.random.default_rng(0))

    assert proposal([*before, *latest]) == proposal(latest)
    assert proposal([*before, *latest[1:]]) != proposal(latest[1:])
    assert proposal(latest).acquisition_value is not None


def test_a_lucky_trial_hides_less_of_what_others_could_gain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its final mIoU is drawn to what the trials beside it say."""
    known = observations(40)
    best = max(range(len(known)), key=lambda row: known[row].final or 0.0)
    known[best] = replace(known[best], final=(known[best].final or 0.0) + 0.1)

    def mean_gain() -> float:
        gains = [
            propose_one(space, known, [], cost, np.random.default_rng(seed)).acquisition_value
            for seed in range(10)
        ]
        return float(np.mean([gain for gain in gains if gain is not None]))

    gain = mean_gain()
    monkeypatch.setattr(ehvi, "SHRINKAGE", 0.0)
    assert gain > 1.2 * mean_gain()


def test_while_nothing_is_of_use_the_best_is_looked_for() -> None:
    """Hypervolume above a mIoU that no trial reaches is 0, and no candidate improves it."""
    known = observations(40)
    beyond = [
        propose_one(space, known, [], cost, np.random.default_rng(seed), least_miou=0.999)
        for seed in range(8)
    ]
    assert all(proposal.acquisition_value is None for proposal in beyond)
    configs = [sample_config(space, proposal.params)[0] for proposal in beyond]
    assert mean_distance(configs) < 0.6
    widths = [cost(config)[0] / 1000 for config in configs]
    assert float(np.median(widths)) > 10


def test_about_an_eighth_of_the_proposals_is_random(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NUM_RANDOM", "NUM_NEIGHBOURS", "NUM_TREES"):  # for speed
        monkeypatch.setattr(ehvi, name, 1)
    known = observations(NUM_START)
    proposals = [
        propose_one(space, known, [], cost, np.random.default_rng(seed)) for seed in range(100)
    ]
    assert all(proposal.params for proposal in proposals)
    assert 6 <= sum(proposal.acquisition_value is None for proposal in proposals) <= 20


def test_proposals_move_along_the_front() -> None:
    known, widths = observations(20), set()
    for seed in range(25):
        proposal = propose_one(space, known, [], cost, np.random.default_rng(seed))
        config, drawn = sample_config(space, proposal.params, seed)
        known.append(Observation(drawn.params, drawn.distributions, cost(config), {}, miou(config)))
        widths.add(config.student.width if proposal.acquisition_value else None)
    assert len(widths) > 6


def test_a_warm_start_from_another_level_of_miou_is_as_good() -> None:
    assert mean_distance(proposals([], observations(40, level=-0.3))) < 0.6
    both = proposals(observations(4, seed=100), observations(40, level=-0.3))
    assert mean_distance(both) < 0.6


def test_earlier_values_come_to_the_level_of_known_ones() -> None:
    earlier, known = observations(200, level=-0.3), observations(50, seed=1000)
    mious = np.array([each.final for each in known], dtype=np.float64)
    shifted = shift_to_current_level(earlier, known, mious, known[0].distributions, 0)
    before = np.array([each.final for each in earlier], dtype=np.float64)
    assert shifted - before == pytest.approx(0.3, abs=0.03)
    assert shift_to_current_level(earlier, [], np.zeros(0), {}, 0) == pytest.approx(before)


def test_configurations_without_costs_are_not_proposed() -> None:
    def small(config: TrialConfig) -> tuple[float, ...] | None:
        return cost(config) if config.student.width <= 5 else None

    proposal = propose_one(space, observations(40), [], small, np.random.default_rng(0))
    assert proposal.params[WIDTH] <= 5
    nothing: Callable[[TrialConfig], None] = lambda config: None  # noqa: E731
    assert propose_one(space, observations(40), [], nothing, np.random.default_rng(0)).params == {}
    for seed in range(40):  # not even where a proposal is random
        proposal = propose_one(space, observations(40), [], small, np.random.default_rng(seed))
        assert proposal.params[WIDTH] <= 5


def test_improvements_are_areas_over_the_logarithm_of_cost() -> None:
    mious, costs = np.array([[0.4], [0.6]]), np.array([[100.0], [10_000.0]])
    new_mious, new_costs = np.array([[0.5], [0.3], [0.7]]), np.array([[1e3], [1e3], [1e4]])
    before = 0.4 * 1.1 + 0.2 * 0.1
    expected = np.array([0.1 * 0.5, 0.0, 0.1 * 0.1]) / before
    assert expected_hypervolume_improvement(mious, costs, new_mious, new_costs) == pytest.approx(
        expected
    )
    unsure = np.array([[0.5, 0.3], [0.3, 0.3], [0.7, 0.7]])  # what another tree says counts half
    halved = expected * (0.5, 1, 1)
    both = expected_hypervolume_improvement(mious.repeat(2, axis=1), costs, unsure, new_costs)
    assert both == pytest.approx(halved)
    useful = expected_hypervolume_improvement(mious, costs, new_mious, new_costs, least_miou=0.45)
    assert useful == pytest.approx(np.array([0.05 * 0.5, 0.0, 0.1 * 0.1]) / (0.15 * 0.1))
    none = expected_hypervolume_improvement(mious, costs, new_mious, new_costs, least_miou=0.8)
    assert none.tolist() == [0.0, 0.0, 0.0]


def test_a_running_trial_counts_as_a_point_of_the_front() -> None:
    known = observations(40)
    alone = propose_one(space, known, [], cost, np.random.default_rng(3))
    config, drawn = sample_config(space, alone.params)
    running = Observation(drawn.params, drawn.distributions, cost(config), running=True)
    beside = propose_one(space, [*known, running], [], cost, np.random.default_rng(3))
    assert alone.acquisition_value is not None
    assert beside.acquisition_value is not None
    assert beside.acquisition_value < alone.acquisition_value
    assert beside.params != alone.params


def test_a_stopped_trial_is_no_point_but_is_learned_from() -> None:
    known = observations(40)
    best, drawn = sample_config(space, {WIDTH: 2, RATE: 1e-3})
    stopped = Observation(drawn.params, drawn.distributions, cost(best), {1: 0.99})
    alone = propose_one(space, known, [], cost, np.random.default_rng(3))
    beside = propose_one(space, [*known, stopped], [], cost, np.random.default_rng(3))
    assert alone.acquisition_value is not None
    assert beside.acquisition_value is not None
    assert beside.acquisition_value > alone.acquisition_value  # it makes its neighbours look better


def test_an_earlier_study_s_ranges_are_read_on_the_new_one_s_scale() -> None:
    wide: Distributions = {"bits": IntDistribution(2, 8), "kind": CategoricalDistribution(["a"])}
    narrow: Distributions = {"bits": FloatDistribution(2, 6)}
    points = [
        Observation({"bits": 6, "kind": "b"}, {}, (1.0,)),
        Observation({"bits": 6.0}, narrow, (1.0,)),
    ]
    rows = encode(points, wide)
    assert rows[0, 0] == rows[1, 0]
    assert rows[:, 1].tolist() == [-1, -1]


def search_where_the_narrowest_fail(teaches: bool, first_seed: int) -> list[int]:
    """The widths of 32 trials, of which those of 4 fail."""

    def four_widths(trial: optuna.Trial) -> TrialConfig:
        width = trial.suggest_categorical(WIDTH, [4, 6, 8, 12])
        return space(trial).replace(student=UNetConfig(width=width))

    known: list[Observation] = []
    widths = []
    for seed in range(first_seed, first_seed + 32):
        proposal = propose_one(four_widths, known, [], cost, np.random.default_rng(seed))
        config, drawn = sample_config(four_widths, proposal.params, seed)
        failed = config.student.width == 4
        final = 0.05 if failed else miou(config)
        params, ranges = drawn.params, drawn.distributions
        if teaches or not failed:
            known.append(Observation(params, ranges, cost(config), {}, final, failed=failed))
        widths.append(config.student.width)
    return widths


@pytest.mark.parametrize("seed", [0, 100, 200])
def test_a_region_that_always_fails_is_not_proposed_repeatedly(seed: int) -> None:
    assert set(search_where_the_narrowest_fail(False, seed)) == {4}  # 32 times of 32
    learned = search_where_the_narrowest_fail(True, seed)[NUM_START:]
    assert learned.count(4) <= len(learned) / 3


def test_a_failed_trial_is_neither_a_point_nor_a_parent() -> None:
    known = observations(40)
    config, drawn = sample_config(space, {WIDTH: 2, RATE: 1e-3})
    params, ranges = drawn.params, drawn.distributions
    failed = Observation(params, ranges, cost(config), {}, 0.9, failed=True)
    assert nondominated([failed], np.array([0.9])) == []
    everything = [*known, failed]
    mious = np.array([each.final for each in everything], dtype=np.float64)
    assert failed not in nondominated(everything, mious)
    point = Observation(params, ranges, cost(config), {}, 0.9)
    gains = {}
    for name, last in (("failed", failed), ("point", point)):
        proposal = propose_one(space, [*known, last], [], cost, np.random.default_rng(3))
        assert proposal.acquisition_value is not None
        gains[name] = proposal.acquisition_value
    assert gains["failed"] > 2 * gains["point"]  # next to so good a point nothing is improved


def test_where_all_have_failed_there_is_no_acquisition_value() -> None:
    drawn = [sample_config(space, {}, seed) for seed in range(NUM_START + 2)]
    failed = [
        Observation(d.params, d.distributions, cost(c), {}, 0.05, failed=True) for c, d in drawn
    ]
    for seed in range(20):  # else a search that is to stop when it is flat would end
        proposal = propose_one(space, failed, [], cost, np.random.default_rng(seed))
        assert proposal.params
        assert proposal.acquisition_value is None


def test_the_proposals_of_a_batch_add_to_those_before_them() -> None:
    known, sizes = observations(40), set[int]()
    for seed in range(12):
        batch = propose(space, known, [], cost, np.random.default_rng(seed), count=8)
        assert len(batch) == 8
        configs = [sample_config(space, each.params)[0] for each in batch]
        assert len({config.digest() for config in configs}) == 8
        gains = [each.acquisition_value for each in batch if each.acquisition_value is not None]
        assert gains == sorted(gains, reverse=True)
        assert all(each.acquisition_value is None for each in batch[len(gains) :])  # random ones
        sizes.add(len(gains))
        assert len({cost(config) for config in configs}) >= 5
    assert 6 <= np.mean(list(sizes)) <= 8


def test_a_batch_is_chosen_as_if_those_before_ran() -> None:
    known, random = observations(40), np.random.default_rng(3)
    first, second, *_ = propose(space, known, [], cost, random, count=8)
    config, drawn = sample_config(space, first.params)
    running = Observation(drawn.params, drawn.distributions, cost(config), running=True)
    random = np.random.default_rng(3)
    best, *_ = propose(space, [*known, running], [], cost, random, count=8)
    assert best == second


def test_first_batches_are_spread_over_the_costs() -> None:
    batch = propose(space, [], [], cost, np.random.default_rng(0), count=5)
    widths = [sample_config(space, each.params)[0].student.width for each in batch]
    assert widths[0] <= 3
    assert widths[1] >= 19
    assert len(set(widths)) == 5
    assert all(each.acquisition_value is None for each in batch)


def test_a_batch_has_no_more_proposals_than_there_are_candidates() -> None:
    left = iter(range(3))

    def three(config: TrialConfig) -> tuple[float, ...] | None:
        return None if next(left, None) is None else cost(config)

    batch = propose(space, observations(40), [], three, np.random.default_rng(1), count=8)
    assert len({str(each.params) for each in batch}) == len(batch) == 3
