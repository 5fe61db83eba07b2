"""Quotas and the bound on questions."""

import pytest

from services.gateway.admission import Admission, Demand
from services.gateway.authentication import Caller
from services.gateway.errors import QuotaExceeded
from services.gateway.settings import GatewaySettings


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_calls_beyond_a_keys_quota_are_refused_until_one_ends() -> None:
    admission = Admission(GatewaySettings(refused_retry_after_ms=700))
    caller = Caller("acme", credential=b"a", max_concurrent_calls=2)
    with admission.call(caller), admission.call(caller):
        with pytest.raises(QuotaExceeded) as caught, admission.call(caller):
            pass
        assert caught.value.retry_after_ms == 700
        with admission.call(Caller("globex", credential=b"b", max_concurrent_calls=1)):
            pass
    with admission.call(caller):
        pass


def test_a_call_that_fails_gives_its_place_back() -> None:
    admission = Admission(GatewaySettings())
    caller = Caller("acme", credential=b"a", max_concurrent_calls=1)
    for _ in range(2):
        with pytest.raises(ValueError, match="failed"), admission.call(caller):
            raise ValueError("failed")


def test_requests_beyond_the_rate_are_told_when_to_come_back() -> None:
    clock = Clock()
    admission = Admission(GatewaySettings(), clock)
    caller = Caller("acme", credential=b"a", requests_per_second=4)
    for _ in range(4):
        with admission.call(caller):
            pass
    with pytest.raises(QuotaExceeded) as caught, admission.call(caller):
        pass
    assert caught.value.retry_after_ms == 250
    clock.now += 0.25
    with admission.call(caller):
        pass


def test_less_than_one_request_a_second_lets_one_in() -> None:
    clock = Clock()
    admission = Admission(GatewaySettings(), clock)
    caller = Caller("acme", credential=b"a", requests_per_second=0.1)
    with admission.call(caller):
        pass
    with pytest.raises(QuotaExceeded) as caught, admission.call(caller):
        pass
    assert caught.value.retry_after_ms == 10_000


DEMAND = Demand("acme", max_tokens=64, seconds=10.0)


def test_questions_beyond_the_bound_are_refused_until_one_ends() -> None:
    admission = Admission(GatewaySettings(max_concurrent_asks=1, refused_retry_after_ms=300))
    with admission.question(DEMAND):
        assert not admission.would_take(DEMAND)
        with pytest.raises(QuotaExceeded) as caught, admission.question(DEMAND):
            pass
        assert caught.value.retry_after_ms == 300
    with admission.question(DEMAND):
        pass


class TestWhatGenerationRefused:
    """It is refused before any work for a moment, and nothing else is."""

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def admission(self, clock: Clock) -> Admission:
        admission = Admission(GatewaySettings(), clock)
        admission.refused(DEMAND, retry_after_ms=900)
        return admission

    @pytest.mark.parametrize("seconds", [10.0, 10.3, 1.0])
    def test_the_like_of_it_is_told_when_to_come_back(self, admission: Admission, clock: Clock, seconds: float) -> None:
        clock.now += 0.2
        like = Demand("acme", max_tokens=64, seconds=seconds)
        assert not admission.would_take(like)
        with pytest.raises(QuotaExceeded) as caught, admission.question(like):
            pass
        assert caught.value.retry_after_ms == 700

    @pytest.mark.parametrize(
        "other",
        [
            Demand("globex", max_tokens=64, seconds=10.0),
            Demand("acme", max_tokens=63, seconds=10.0),
            Demand("acme", max_tokens=64, seconds=11.0),
        ],
        ids=["another tenant", "a shorter answer", "more time"],
    )
    def test_what_may_fit_is_let_in(self, admission: Admission, other: Demand) -> None:
        with admission.question(other):
            assert admission.would_take(other)

    def test_only_for_a_moment(self, admission: Admission, clock: Clock) -> None:
        clock.now += 0.25
        with admission.question(DEMAND):
            pass

    def test_then_one_by_one_for_a_while(self, admission: Admission, clock: Clock) -> None:
        clock.now += 0.25
        with admission.question(DEMAND):
            assert not admission.would_take(DEMAND)
            clock.now += 0.25
            assert admission.would_take(DEMAND)
        clock.now += 1.0
        with admission.question(DEMAND):
            assert admission.would_take(DEMAND)

    def test_a_short_deadline_holds_for_less(self, clock: Clock) -> None:
        admission = Admission(GatewaySettings(), clock)
        hasty = Demand("acme", max_tokens=64, seconds=1.0)
        admission.refused(hasty, retry_after_ms=900)
        assert not admission.would_take(hasty)
        clock.now += 0.03
        assert admission.would_take(hasty)

    def test_a_shorter_hint_ends_it_sooner(self, clock: Clock) -> None:
        admission = Admission(GatewaySettings(), clock)
        admission.refused(DEMAND, retry_after_ms=100)
        clock.now += 0.1
        assert admission.would_take(DEMAND)
