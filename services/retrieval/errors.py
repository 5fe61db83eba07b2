"""What can go wrong in a shard, beside what every service knows."""

from serving.errors import ErrorCode, HeadwaterError, Unavailable


class NotReady(Unavailable):
    """The shard does not answer yet: it is catching up, or it is being rebuilt."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message, reason=reason, retry_after_ms=1000)


def rebuilding() -> NotReady:
    """What is said while the index is made anew."""
    return NotReady("the index is being rebuilt from the log; try again later", reason="REBUILDING")


class Damaged(Exception):
    """The database is broken; it is put aside and made anew from the log."""


class CannotWrite(Exception):
    """The disk is full or fails; nothing was changed, and trying again later may work."""


class UnreadableRecord(HeadwaterError):
    """A record of the index log that this version cannot understand: going on would leave something out."""

    code = ErrorCode.INTERNAL


class OutOfOrder(HeadwaterError):
    """Documents offsets did not strictly increase along a partition (rule 2): going on could serve what is wrong."""

    code = ErrorCode.INTERNAL
