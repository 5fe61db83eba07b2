"""The table of limits."""

from __future__ import annotations

from serving import limits


def test_the_table_lists_every_limit_once_with_its_value() -> None:
    constants = {name: value for name, value in vars(limits).items() if name.startswith("MAX_")}
    assert {name: value for name, (value, _) in limits.LIMITS.items()} == constants
    assert all(description for _, description in limits.LIMITS.values())


def test_a_message_holds_the_largest_record() -> None:
    assert limits.MAX_MESSAGE_BYTES > limits.MAX_LOG_RECORD_BYTES > limits.MAX_DOCUMENT_BYTES
