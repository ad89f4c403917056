"""When it is said why nothing runs."""

import pytest

from search.execution import waiting
from search.execution.waiting import AGAIN_S, FIRST_S, WaitingNotice


def test_it_is_said_after_half_a_minute_and_every_few_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, said = [0.0], list[str]()
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
    notice = WaitingNotice(said.append, lambda: "nodes are starting")

    def look_at(seconds: float) -> int:
        now[0] = seconds
        notice.look()
        return len(said)

    assert look_at(FIRST_S - 1) == 0
    assert look_at(FIRST_S) == 1
    assert said == ["waiting for 30 s: nodes are starting"]
    assert look_at(FIRST_S + AGAIN_S - 1) == 1
    assert look_at(FIRST_S + AGAIN_S) == 2
    notice.restart()
    assert look_at(FIRST_S + AGAIN_S + FIRST_S - 1) == 2
    assert look_at(FIRST_S + AGAIN_S + FIRST_S) == 3
