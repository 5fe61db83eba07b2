"""What the client raises, and the one seam where gRPC's errors become it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

if TYPE_CHECKING:
    from ._types import WriteResult
    from .common.v1 import common_pb2


class HeadwaterError(Exception):
    """A failure.

    message: one sentence: what was wrong and what to do.
    code: name of the gRPC status code, e.g. "INVALID_ARGUMENT".
    reason: stable, in capitals, for programs, e.g. "DOCUMENT_TOO_LARGE".
    field: the request's field that was wrong, if one was.
    retry_after: seconds after which trying again may help; None when that is not known.
    """

    code = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        reason: str = "",
        field: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.reason = reason or self.code
        self.field = field
        self.retry_after = retry_after


class InvalidArgument(HeadwaterError):
    """The request can never succeed as it is; `field` says what to change."""

    code = "INVALID_ARGUMENT"


class Unauthenticated(HeadwaterError):
    """The key is missing or wrong."""

    code = "UNAUTHENTICATED"


class PermissionDenied(HeadwaterError):
    """The caller may not do this."""

    code = "PERMISSION_DENIED"


class NotFound(HeadwaterError):
    """What was asked for does not exist, or may not be seen."""

    code = "NOT_FOUND"


class AlreadyExists(HeadwaterError):
    """The name is taken."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(HeadwaterError):
    """The system's state forbids it; trying again alone does not help."""

    code = "FAILED_PRECONDITION"


class ResourceExhausted(HeadwaterError):
    """Too much at once; `retry_after` says when to come back."""

    code = "RESOURCE_EXHAUSTED"


class Unavailable(HeadwaterError):
    """The gateway or something behind it is down; trying again may help."""

    code = "UNAVAILABLE"


class DeadlineExceeded(HeadwaterError):
    """The call's time ran out."""

    code = "DEADLINE_EXCEEDED"


class Unimplemented(HeadwaterError):
    """The contract has it, the gateway does not honour it yet."""

    code = "UNIMPLEMENTED"


class Internal(HeadwaterError):
    """A fault in Headwater."""

    code = "INTERNAL"


class WriteFailed(HeadwaterError):
    """A put or a delete was not taken as a whole; `result` says what was, what was not, and why.

    The code, reason and field are those of the first refusal.
    """

    def __init__(self, message: str, *, result: WriteResult, cause: HeadwaterError) -> None:
        super().__init__(
            message, code=cause.code, reason=cause.reason, field=cause.field, retry_after=cause.retry_after
        )
        self.result = result


class WriteUnknown(WriteFailed):
    """Time ran out before it was known whether `document_ids` were written.

    They may be, or may become so within ten seconds. Putting them again with this client is safe: it waits that long
    first.
    """

    @property
    def document_ids(self) -> tuple[str, ...]:
        """The documents whose outcome is not known."""
        return tuple(refusal.document_id for refusal in self.result.unknown)


_BY_CODE: Final[dict[str, type[HeadwaterError]]] = {
    cls.code: cls
    for cls in (
        InvalidArgument,
        Unauthenticated,
        PermissionDenied,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        ResourceExhausted,
        Unavailable,
        DeadlineExceeded,
        Unimplemented,
        Internal,
    )
}


def error_of(
    code: str, message: str, *, reason: str = "", field: str = "", retry_after: float | None = None
) -> HeadwaterError:
    """The error for the name of a gRPC status code."""
    cls = _BY_CODE.get(code, HeadwaterError)
    return cls(message, code=code, reason=reason, field=field, retry_after=retry_after)


def from_message(error: common_pb2.Error) -> HeadwaterError:
    """The error that a message inside a stream tells of."""
    return error_of(
        error.code or HeadwaterError.code,
        error.message,
        reason=error.reason,
        field=error.field,
        retry_after=error.retry_after_ms / 1000 if error.retry_after_ms else None,
    )


def from_rpc_error(error: grpc.RpcError, address: str) -> HeadwaterError:
    """The error for a call that failed; `address` is the gateway's, for messages about not reaching it."""
    code = error.code().name
    reason, field, retry_after = _details(error)
    # What the gateway says carries a reason of its own; without one it is the network, or gRPC, that speaks.
    message = error.details() or code.lower().replace("_", " ")
    if code == "CANCELLED" and message not in _CANCELLED_HERE:
        code = "UNAVAILABLE"  # a gateway that shuts down drops calls that it has not taken up so
    if code == "UNAVAILABLE" and not reason:
        reason, message = "GATEWAY_UNREACHABLE", f"cannot reach the gateway at {address}: {message.rpartition(': ')[2]}"
    elif code == "DEADLINE_EXCEEDED" and not reason:
        message = f"the gateway at {address} did not answer within the call's timeout"
    return error_of(code, message, reason=reason, field=field, retry_after=retry_after)


# What gRPC says of calls that this process cancelled itself.
_CANCELLED_HERE: Final = ("Channel closed!", "Locally cancelled by application!")


def _details(error: grpc.RpcError) -> tuple[str, str, float | None]:
    reason, field, retry_after = "", "", None
    try:
        status = rpc_status.from_call(cast(grpc.Call, error))
    except (ValueError, DecodeError):
        return (
            reason,
            field,
            retry_after,
        )  # something between here and the gateway mangled them; the status code must do
    for detail in status.details if status else ():
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            reason = info.reason
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            field = bad.field_violations[0].field if bad.field_violations else ""
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return reason, field, retry_after
