"""What is learnt of the engine's speed and of the answers' length."""

import math

import pytest

from services.generation.pace import Pace


def _worked(pace: Pace, seconds: int, cost_per_second: float, *, saturated: bool, since: float = 0.0) -> float:
    for tenth in range(seconds * 10 + 1):
        pace.worked(cost_per_second / 10, since + tenth / 10, saturated)
    return since + seconds


def test_everything_is_fast_until_something_was_measured() -> None:
    assert math.isinf(Pace().cost_per_second)


def test_the_rate_is_learnt() -> None:
    pace = Pace()
    _worked(pace, 10, 80.0, saturated=True)
    assert pace.cost_per_second == pytest.approx(80.0, rel=0.25)


def test_a_quiet_time_does_not_look_like_a_slow_engine() -> None:
    pace = Pace()
    now = _worked(pace, 10, 80.0, saturated=True)
    known = pace.cost_per_second
    _worked(pace, 10, 5.0, saturated=False, since=now)
    assert pace.cost_per_second == known


def test_an_engine_that_gets_slower_is_noticed() -> None:
    pace = Pace()
    now = _worked(pace, 10, 80.0, saturated=True)
    _worked(pace, 30, 20.0, saturated=True, since=now)
    assert pace.cost_per_second == pytest.approx(20.0, rel=0.25)


def test_an_engine_that_gets_slower_while_callers_are_refused_is_noticed_though_none_waits() -> None:
    pace = Pace()
    now = _worked(pace, 10, 80.0, saturated=True)
    for tenth in range(300):
        pace.pressed()
        pace.worked(2.0, now + tenth / 10, saturated=False)
    assert pace.cost_per_second == pytest.approx(20.0, rel=0.25)


def test_idle_time_does_not_count() -> None:
    pace = Pace()
    _worked(pace, 5, 80.0, saturated=True)
    pace.idle()
    _worked(pace, 5, 80.0, saturated=True, since=1000.0)
    assert pace.cost_per_second == pytest.approx(80.0, rel=0.25)


def test_a_new_engine_is_expected_to_use_all_it_may() -> None:
    assert Pace().expected_tokens(256) == 256


def test_short_answers_are_learnt_and_bounded() -> None:
    pace = Pace()
    for _ in range(100):
        pace.answered(25, 100)
    assert 25 <= pace.expected_tokens(100) <= 30
    assert pace.expected_tokens(1) == 1
