"""The one table between this project's errors and the statuses of gRPC and HTTP, with google.rpc's details."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from serving import limits
from serving.errors import (
    DeadlineExceeded,
    ErrorCode,
    FailedPrecondition,
    HeadwaterError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)

DOMAIN = "headwater"
_DETAILS_KEY = "grpc-status-details-bin"

GRPC_STATUS: Mapping[ErrorCode, grpc.StatusCode] = MappingProxyType(
    {code: grpc.StatusCode[code.value] for code in ErrorCode}
)

HTTP_STATUS: Mapping[ErrorCode, int] = MappingProxyType(
    {
        ErrorCode.INVALID_ARGUMENT: 400,
        ErrorCode.UNAUTHENTICATED: 401,
        ErrorCode.PERMISSION_DENIED: 403,
        ErrorCode.NOT_FOUND: 404,
        ErrorCode.ALREADY_EXISTS: 409,
        ErrorCode.FAILED_PRECONDITION: 412,
        ErrorCode.RESOURCE_EXHAUSTED: 429,
        ErrorCode.INTERNAL: 500,
        ErrorCode.UNIMPLEMENTED: 501,
        ErrorCode.UNAVAILABLE: 503,
        ErrorCode.DEADLINE_EXCEEDED: 504,
    }
)

# gRPC's own statuses that have no ErrorCode, and what they mean to a caller.
_FOREIGN: Mapping[grpc.StatusCode, ErrorCode] = MappingProxyType(
    {
        grpc.StatusCode.CANCELLED: ErrorCode.UNAVAILABLE,
        grpc.StatusCode.ABORTED: ErrorCode.UNAVAILABLE,
        grpc.StatusCode.OUT_OF_RANGE: ErrorCode.INVALID_ARGUMENT,
    }
)

_CLASSES: Mapping[ErrorCode, type[HeadwaterError]] = MappingProxyType(
    {
        error.code: error
        for error in (
            InvalidArgument,
            NotFound,
            FailedPrecondition,
            ResourceExhausted,
            Unavailable,
            DeadlineExceeded,
            Unimplemented,
        )
    }
)

# What gRPC says of a message above the limit, with a status that would otherwise mean "come back later".
_TOO_LARGE = "larger than max"

# When gRPC itself refuses a call it gives no hint; neither too soon nor too late for a queue of short calls.
_DEFAULT_RETRY_AFTER_MS = 100


def to_status(error: HeadwaterError) -> grpc.Status:
    """The gRPC status of an error, with ErrorInfo, and BadRequest and RetryInfo where they apply."""
    status = status_pb2.Status(code=GRPC_STATUS[error.code].value[0], message=error.message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN))
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_ms:
        delay = Duration()
        delay.FromMilliseconds(error.retry_after_ms)
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return rpc_status.to_status(status)


def from_rpc_error(error: grpc.aio.AioRpcError) -> HeadwaterError:
    """The error that another service meant. What gRPC said by itself loses its text where that could name addresses."""
    code = _code_of(error.code())
    details = _details_of(error)
    if code is ErrorCode.RESOURCE_EXHAUSTED and _TOO_LARGE in (error.details() or ""):
        return InvalidArgument(
            f"the message is larger than {limits.MAX_MESSAGE_BYTES} bytes; send less at once",
            reason="MESSAGE_TOO_LARGE",
        )
    reason = field = ""
    retry_after_ms = 0
    for packed in details.details:
        info, bad_request, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        if packed.Unpack(info) and info.domain == DOMAIN:
            reason = info.reason
        elif packed.Unpack(bad_request) and bad_request.field_violations:
            field = bad_request.field_violations[0].field
        elif packed.Unpack(retry):
            retry_after_ms = retry.retry_delay.ToMilliseconds()
    if reason:
        message = details.message
    else:
        message = _words_for(code, error.details() or "")
        retry_after_ms = _DEFAULT_RETRY_AFTER_MS if code is ErrorCode.RESOURCE_EXHAUSTED else 0
    return _CLASSES.get(code, HeadwaterError)(
        message, code=code, reason=reason, field=field, retry_after_ms=retry_after_ms
    )


def _code_of(status: grpc.StatusCode) -> ErrorCode:
    if status.name in ErrorCode.__members__:
        return ErrorCode[status.name]
    return _FOREIGN.get(status, ErrorCode.INTERNAL)


def _details_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    status = status_pb2.Status()
    metadata: Iterable[tuple[str, str | bytes]] = cast(Any, error.trailing_metadata()) or ()
    for key, value in metadata:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                status.ParseFromString(value)
            except DecodeError:
                return status_pb2.Status()
    return status


def _words_for(code: ErrorCode, details: str) -> str:
    match code:
        case ErrorCode.UNAVAILABLE:
            return "a service that this call needs cannot be reached; try again"
        case ErrorCode.DEADLINE_EXCEEDED:
            return "the call's deadline has passed; allow more time"
        case ErrorCode.INTERNAL:
            return "a service that this call needs failed"
        case _:
            return details
