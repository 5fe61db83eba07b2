"""The gateway's own errors."""

from serving.errors import ErrorCode, FailedPrecondition, HeadwaterError, ResourceExhausted


class Unauthenticated(HeadwaterError):
    """The caller's key is missing or not known."""

    code = ErrorCode.UNAUTHENTICATED


class AlreadyExists(HeadwaterError):
    """The same thing came twice."""

    code = ErrorCode.ALREADY_EXISTS


class TokenOfAnotherLog(FailedPrecondition):
    """A write token from before the log was made anew."""

    def __init__(self) -> None:
        super().__init__(
            "this write token speaks of another log than the one that is served now: "
            "the log was created anew, so put the documents again and use the new token",
            reason="LOG_REPLACED",
            field="after",
        )


class QuotaExceeded(ResourceExhausted):
    """More at once, or more a second, than the caller's key, this gateway or its model allows."""
