"""What every call goes through, outermost first: tracing, metrics, deadline, errors. Only the last one aborts a call.

gRPC's own services (health, reflection) go around all of it: they must answer even when everything else is refused.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import grpc
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import Counter, Histogram

from serving import deadlines, limits, telemetry
from serving.errors import HeadwaterError, ResourceExhausted, Unimplemented
from serving.status import to_status

_log = telemetry.get_logger(__name__)
_tracer = trace.get_tracer(__name__)
_propagator = TraceContextTextMapPropagator()
_OWN_TO_GRPC = "/grpc."
_OVERLOADED_RETRY_AFTER_MS = 200
# gRPC rounds a deadline on its way here and ends the call at its own, somewhat earlier one.
_DEADLINE_ROUNDING_SECONDS = 0.05

# Named as go-grpc-prometheus names them, which dashboards made for gRPC know.
_started = Counter("grpc_server_started", "Calls begun.", ["grpc_service", "grpc_method"])
_handled = Counter("grpc_server_handled", "Calls ended, by status.", ["grpc_service", "grpc_method", "grpc_code"])
_seconds = Histogram(
    "grpc_server_handling_seconds",
    "Time from a call's beginning to its end, in seconds.",
    ["grpc_service", "grpc_method", "grpc_code"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 600),
)

# grpc-stubs leave the four shapes of handlers and their contexts partly untyped.
Context = Any
Handler = Any


def server_interceptors(max_concurrent_calls: int) -> Sequence[grpc.aio.ServerInterceptor[Any, Any]]:
    """The interceptors of a server: one, since each more is a layer that every message of a stream goes through."""
    return (_Calls(max_concurrent_calls),)


class _Calls(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Runs a call of any of the four shapes inside all that surrounds it."""

    def __init__(self, max_concurrent_calls: int) -> None:
        self._max_concurrent_calls = max_concurrent_calls
        self._calls = 0
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], details: grpc.HandlerCallDetails
    ) -> Handler:
        method = details.method
        if method in self._handlers:
            return self._handlers[method]
        handler = await continuation(details)
        if handler is None or method.startswith(_OWN_TO_GRPC):
            return handler
        self._handlers[method] = self._surrounded(method, handler)
        return self._handlers[method]

    def _surrounded(self, method: str, handler: Handler) -> Handler:
        inner = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        async def single(request: Any, context: Context) -> Any:
            async with self._around(method, context):
                return await inner(request, context)

        async def generating(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._around(method, context), aclosing(inner(request, context)) as responses:
                async for response in responses:
                    yield response

        # A streaming handler that is no generator writes its responses through the context and returns nothing.
        streams = handler.response_streaming and inspect.isasyncgenfunction(inner)
        wrap = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        return wrap(
            generating if streams else single,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    @asynccontextmanager
    async def _around(self, method: str, context: Context) -> AsyncIterator[None]:
        with _traced(method, context), _measured(method, context):
            _start_deadline(context)
            async with self._translated(method, context):
                yield

    @asynccontextmanager
    async def _translated(self, method: str, context: Context) -> AsyncIterator[None]:
        """Turns what a call raises into its status; refuses calls beyond the bound and ends them at their deadline."""
        self._calls += 1
        try:
            if self._calls > self._max_concurrent_calls:
                raise ResourceExhausted(
                    f"this server already works on {self._max_concurrent_calls} calls; come back later",
                    reason="TOO_MANY_CALLS",
                    retry_after_ms=_OVERLOADED_RETRY_AFTER_MS,
                )
            async with deadlines.enforced():
                yield
        except HeadwaterError as error:
            await _abort(context, error)
        except NotImplementedError as error:
            # What the generated base class does with a method that a servicer does not have.
            if _code(context) is not grpc.StatusCode.UNIMPLEMENTED:
                await _abort(context, _unexpected(method, error))
            await _abort(context, Unimplemented("this version does not have this call yet"))
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await _abort(context, _unexpected(method, error))
        finally:
            self._calls -= 1


@contextmanager
def _traced(method: str, context: Context) -> Iterator[None]:
    """Adopts the caller's request id and trace, and puts the id on the answer.

    Nothing is reset afterwards: a call has a task of its own, and its context ends with it.
    """
    carried = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    identity = telemetry.adopt_request_id(carried.get(telemetry.REQUEST_ID_KEY, ""))
    context.set_trailing_metadata(((telemetry.REQUEST_ID_KEY, identity),))
    span = _tracer.start_span(
        method.removeprefix("/"), context=_propagator.extract(carried), kind=trace.SpanKind.SERVER
    )
    span.set_attribute("headwater.request_id", identity)
    otel_context.attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        span.set_attribute("rpc.grpc.status_code", _code(context).value[0])
        span.end()


@contextmanager
def _measured(method: str, context: Context) -> Iterator[None]:
    """Counts and times a call, and logs one line of it."""
    _, service, name = method.split("/", 2)
    _started.labels(service, name).inc()
    began = time.monotonic()
    completed = False
    try:
        yield
        completed = True
    finally:
        seconds = time.monotonic() - began
        code = _final_code(context, completed).name
        _handled.labels(service, name, code).inc()
        _seconds.labels(service, name, code).observe(seconds)
        line = partial(_log.info, "call", method=f"{service}/{name}", code=code, milliseconds=round(seconds * 1000, 3))
        # The caller has its answer first.
        asyncio.get_running_loop().call_soon(line)


def _start_deadline(context: Context) -> None:
    """Sets the call's deadline: the caller's, cut to the longest that is allowed."""
    asked = context.time_remaining()
    longest = float(limits.MAX_DEADLINE_SECONDS)
    deadlines.start_call(longest if asked is None else min(asked, longest))


def _unexpected(method: str, error: Exception) -> HeadwaterError:
    _log.error("call failed unexpectedly", method=method, exc_info=error)
    return HeadwaterError(f"internal error; the server's log has it under request id {telemetry.request_id()}")


async def _abort(context: Context, error: HeadwaterError) -> None:
    status = to_status(error)
    context.set_code(status.code)  # abort itself leaves no trace of it that metrics could read
    request = (telemetry.REQUEST_ID_KEY, telemetry.request_id())
    await context.abort(status.code, status.details, (*status.trailing_metadata, request))


def _code(context: Context) -> grpc.StatusCode:
    """What has been set so far; gRPC gives a bare 0 when nothing has."""
    return context.code() or grpc.StatusCode.OK


def _final_code(context: Context, completed: bool) -> grpc.StatusCode:
    """The status of a call that has ended; one that has none was cut off, by its caller or its deadline."""
    code = _code(context)
    if completed or code is not grpc.StatusCode.OK:
        return code
    if deadlines.remaining() <= _DEADLINE_ROUNDING_SECONDS:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.CANCELLED
