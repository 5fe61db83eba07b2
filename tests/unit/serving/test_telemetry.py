"""Logs have request ids and frames, and never what an exception may quote."""

from __future__ import annotations

import logging

from serving.errors import NotFound
from serving.telemetry import _Seldom, describe


def _raised(outer: Exception, inner: Exception | None = None) -> Exception:
    try:
        try:
            raise inner or ValueError("a secret sentence")
        except Exception as cause:
            raise outer from cause
    except Exception as error:
        return error


def test_an_exception_is_its_types_and_frames_with_its_causes() -> None:
    told = describe(_raised(KeyError("another secret")))
    assert "builtins.KeyError" in told
    assert "caused by builtins.ValueError" in told
    assert "test_telemetry.py" in told
    assert "another secret" not in told


def test_words_that_are_meant_for_people_are_kept() -> None:
    told = describe(_raised(NotFound("no such collection"), OSError(28, "No space left on device")))
    assert "no such collection" in told
    assert "No space left on device" in told


def _line(logger: str, message: str, *arguments: object, at: float) -> logging.LogRecord:
    record = logging.LogRecord(logger, logging.ERROR, __file__, 1, message, arguments, None)
    record.created = at
    return record


def test_a_library_that_repeats_itself_is_heard_once_in_a_while_with_how_often() -> None:
    seldom = _Seldom(every_seconds=30)
    assert seldom.filter(_line("aiokafka.conn", "unable to connect to %s", "one", at=100))
    assert not seldom.filter(_line("aiokafka.conn", "unable to connect to %s", "two", at=101))
    assert not seldom.filter(_line("aiokafka.conn", "unable to connect to %s", "one", at=129))
    assert seldom.filter(_line("aiokafka.conn", "something else", at=129))
    later = _line("aiokafka.conn", "unable to connect to %s", "one", at=130)
    assert seldom.filter(later)
    assert later.getMessage() == "unable to connect to one (and 2 more like it since it was last told)"


def test_headwaters_own_lines_are_never_held_back() -> None:
    seldom = _Seldom(every_seconds=30)
    assert all(seldom.filter(_line("services.gateway", "the same", at=100)) for _ in range(3))
