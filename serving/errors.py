"""The errors of every service: one exception, one code enum; `serving.status` maps them to gRPC and HTTP."""

from enum import StrEnum


class ErrorCode(StrEnum):
    """What kind of failure; the names are those of gRPC's status codes."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    UNAVAILABLE = "UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"


class HeadwaterError(Exception):
    """A failure that a caller may be told of.

    message: lowercase, what was wrong and what to do; never another tenant's data, never a document's text.
    reason: stable, in capitals, for programs (google.rpc.ErrorInfo).
    field: the request's field that was wrong (google.rpc.BadRequest).
    retry_after_ms: when trying again may help (google.rpc.RetryInfo).
    """

    code = ErrorCode.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode | None = None,
        reason: str = "",
        field: str = "",
        retry_after_ms: int = 0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.reason = reason or self.code.value
        self.field = field
        self.retry_after_ms = retry_after_ms


class InvalidArgument(HeadwaterError):
    """The request can never succeed as it is; `field` says what to change."""

    code = ErrorCode.INVALID_ARGUMENT


class NotFound(HeadwaterError):
    """What was asked for does not exist, or may not be seen."""

    code = ErrorCode.NOT_FOUND


class FailedPrecondition(HeadwaterError):
    """The system's state forbids it; trying again alone does not help."""

    code = ErrorCode.FAILED_PRECONDITION


class ResourceExhausted(HeadwaterError):
    """Too much at once; `retry_after_ms` says when to come back."""

    code = ErrorCode.RESOURCE_EXHAUSTED


class Unavailable(HeadwaterError):
    """A dependency is down; trying again may help."""

    code = ErrorCode.UNAVAILABLE


class DeadlineExceeded(HeadwaterError):
    """The caller's time ran out."""

    code = ErrorCode.DEADLINE_EXCEEDED


class Unimplemented(HeadwaterError):
    """The contract has it, this version does not honour it yet."""

    code = ErrorCode.UNIMPLEMENTED
