"""Where the next trial runs."""

from collections import Counter

from search.execution.places import WAITING_ON_CLUSTER, TrialPlaces
from search.execution.resources import Nodes, NodeType, TrialResources

ONE = TrialResources(cpus=1, gpus=0)


def places(nodes: Nodes, *shares: TrialResources) -> TrialPlaces:
    return TrialPlaces(lambda: nodes, lambda _: shares)


def num_asked(places: TrialPlaces) -> Counter[TrialResources]:
    """The trials that are asked for before there is no room."""
    taken: Counter[TrialResources] = Counter()
    while (place := places.next(taken)) is not None:
        taken[place] += 1
    return taken


def test_a_machine_runs_as_many_trials_as_fit_and_at_least_one() -> None:
    machine = Nodes((NodeType(2),))
    assert num_asked(places(machine, ONE)) == {ONE: 2}
    large = TrialResources(cpus=4, gpus=0)
    assert num_asked(places(machine, large)) == {large: 1}
    assert places(machine, large).capacity() == 1


def test_on_a_cluster_some_trials_wait_for_nodes() -> None:
    assert num_asked(places(Nodes((NodeType(2),), is_cluster=True), ONE)) == {ONE: 6}
    assert num_asked(places(Nodes((), is_cluster=True), ONE)) == {ONE: WAITING_ON_CLUSTER}


def test_trials_are_divided_among_kinds_of_gpu() -> None:
    nodes = Nodes(
        (NodeType(8, 1, "L4", running=2, most=5), NodeType(16, 1, "A10G", running=1, most=1)),
        is_cluster=True,
    )
    small, large = TrialResources(4, 1 / 2, "L4"), TrialResources(4, 1 / 4, "A10G")
    asked = num_asked(places(nodes, small, large))
    assert asked == {small: 4 + WAITING_ON_CLUSTER, large: 4}  # they wait for what can be added
    assert places(nodes, small, large).capacity() == 8 + 6


def test_trials_on_a_kind_of_which_nodes_were_lost_leave_the_others_free() -> None:
    nodes = Nodes((NodeType(8, 1, "L4", running=1, most=1),), is_cluster=True)
    here, lost = TrialResources(4, 1 / 2, "L4"), TrialResources(4, 1 / 4, "A10G")
    asked = Counter({lost: 4})
    while (place := places(nodes, here).next(asked)) is not None:
        asked[place] += 1
    assert asked == {lost: 4, here: 2 + WAITING_ON_CLUSTER}
    assert places(nodes).next(asked) is None  # no kind is measured yet


def test_a_share_that_changes_with_the_nodes_does_not_ask_for_more() -> None:
    nodes = Nodes(
        (NodeType(16, 1, running=4, most=4), NodeType(8, 1, running=1, most=1)), is_cluster=True
    )
    before, now = TrialResources(16, 1), TrialResources(8, 1)
    asked = Counter({before: 8})
    assert places(nodes, now).next(asked) == now
    assert places(nodes, now).next(asked + Counter({now: 1})) is None
