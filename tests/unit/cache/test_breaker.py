import pytest

from services.cache.engines.breaker import Breaker
from services.cache.errors import StoreUnavailable


class Clock:
    """A clock in seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(failures_to_open=3, cooldown_seconds=1.0, clock=clock)


def _open(breaker: Breaker) -> None:
    for _ in range(3):
        breaker.check()
        breaker.failed()


def test_opens_after_failures_in_a_row(breaker: Breaker) -> None:
    _open(breaker)
    with pytest.raises(StoreUnavailable):
        breaker.check()


def test_success_between_failures_keeps_it_closed(breaker: Breaker) -> None:
    for _ in range(10):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
    breaker.check()


def test_one_tries_after_the_cooldown(breaker: Breaker, clock: Clock) -> None:
    _open(breaker)
    clock.now = 1.0
    breaker.check()
    with pytest.raises(StoreUnavailable):
        breaker.check()


def test_trial_that_fails_waits_another_cooldown(breaker: Breaker, clock: Clock) -> None:
    _open(breaker)
    clock.now = 1.0
    breaker.check()
    clock.now = 1.5
    breaker.failed()
    clock.now = 2.4
    with pytest.raises(StoreUnavailable):
        breaker.check()
    clock.now = 2.5
    breaker.check()


def test_trial_that_succeeds_closes_it(breaker: Breaker, clock: Clock) -> None:
    _open(breaker)
    clock.now = 1.0
    breaker.check()
    breaker.succeeded()
    breaker.check()
    breaker.check()


def test_trial_whose_caller_hung_up_is_followed_by_another(breaker: Breaker, clock: Clock) -> None:
    _open(breaker)
    clock.now = 1.0
    breaker.check()
    clock.now = 2.0
    breaker.check()
