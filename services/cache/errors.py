"""The cache's own failures. None of the first two reaches a caller: both become a miss."""

from serving.errors import ErrorCode, HeadwaterError


class StoreUnavailable(HeadwaterError):
    """Valkey or Redis is down, or slower than its budget."""

    code = ErrorCode.UNAVAILABLE


class Corrupt(HeadwaterError):
    """What the store gave back is damaged."""

    code = ErrorCode.INTERNAL


class TokenOfAnotherLog(HeadwaterError):
    """The caller's write token speaks of a log that is no longer there."""

    code = ErrorCode.FAILED_PRECONDITION

    def __init__(self) -> None:
        super().__init__(
            "the write token is of another log; the log was replaced, so write again or ask without the token",
            reason="LOG_REPLACED",
        )
