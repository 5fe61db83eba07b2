"""Logs (structlog, JSON, a line an event) and traces (OpenTelemetry). Neither holds a document's or a question's text.

Metrics are declared by each service in its own `metrics.py`, on prometheus_client's default registry.
"""

from __future__ import annotations

import contextvars
import logging
import re
import secrets
import sys
import time
import traceback
from contextlib import AbstractContextManager
from math import inf
from typing import Literal

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from pydantic import BaseModel, ConfigDict, Field

from serving.errors import HeadwaterError

REQUEST_ID_KEY = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# The only exceptions whose words are logged: others may quote what they choked on.
_SPEAKING = (HeadwaterError, OSError)

# Libraries that log each attempt of each of their tasks.
_CHATTY = ("aiokafka",)
_SELDOM_SECONDS = 30.0

_tracer = trace.get_tracer(__name__)
_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")


class TelemetrySettings(BaseModel):
    """What a process says about itself, and to whom."""

    model_config = ConfigDict(frozen=True)

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the least severe level that is logged"
    )
    otlp_endpoint: str = Field(
        default="",
        description="OTLP/gRPC collector that traces are sent to, e.g. http://localhost:4317; empty sends none",
    )
    trace_ratio: float = Field(
        default=1.0, ge=0, le=1, description="share of the traces started here that are recorded, from 0 to 1"
    )


def request_id() -> str:
    """The id of the request being worked on; "" outside one."""
    return _request_id.get()


def adopt_request_id(candidate: str = "") -> str:
    """Take over a request's id, or make one if there is none that is fit to be logged, and return it."""
    chosen = candidate if _REQUEST_ID.fullmatch(candidate) else secrets.token_hex(8)
    _request_id.set(chosen)
    return chosen


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose events carry the request's id."""
    return structlog.stdlib.get_logger(name)


def span(name: str, context: Context | None = None) -> AbstractContextManager[trace.Span]:
    """A span around what runs inside, under `context`'s or else the current one; it goes nowhere unless
    `otlp_endpoint` is set. What is raised inside is not written on it: it may quote a document."""
    return _tracer.start_as_current_span(name, context, record_exception=False, set_status_on_exception=False)


def record_span(name: str, began: float, ended: float, context: Context | None = None) -> None:
    """Record something that is over by now, a wait or a piece of work, as a span of a trace that is recorded.

    Times in monotonic seconds. The span belongs under `context`'s, or else the current one. Names end in `.queue` or
    `.wait` where nothing was worked on.
    """
    if not trace.get_current_span(context).get_span_context().trace_flags.sampled:
        return
    zero_ns = time.time_ns() - time.monotonic_ns()
    span = _tracer.start_span(name, context, start_time=zero_ns + int(began * 1e9))
    span.end(zero_ns + int(ended * 1e9))


def configure(service: str, settings: TelemetrySettings) -> None:
    """Set up this process's logs (to standard error) and traces. Called once, by `run`."""

    def add_service(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {"service": service, **event}

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_PROCESSORS,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                add_service,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    handler.addFilter(_Seldom())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    if settings.otlp_endpoint:
        _export_traces(service, settings)


class _Seldom(logging.Filter):
    """Lets through one of a chatty library's lines of a kind in a while; a lost broker makes hundreds a second."""

    def __init__(self, every_seconds: float = _SELDOM_SECONDS) -> None:
        super().__init__()
        self._every_seconds = every_seconds
        self._told: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] not in _CHATTY:
            return True
        kind = (record.name, str(record.msg))  # before its arguments are put in
        told_at, unsaid = self._told.get(kind, (-inf, 0))
        if record.created - told_at < self._every_seconds:
            self._told[kind] = (told_at, unsaid + 1)
            return False
        self._told[kind] = (record.created, 0)
        if unsaid:
            record.msg = f"{record.msg} (and {unsaid} more like it since it was last told)"
        return True


def shut_down() -> None:
    """Send what has not been sent."""
    provider = trace.get_tracer_provider()
    flush = getattr(provider, "shutdown", None)
    if flush is not None:
        flush()


def _export_traces(service: str, settings: TelemetrySettings) -> None:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    provider = TracerProvider(
        resource=Resource.create({"service.name": f"headwater-{service}"}),
        sampler=ParentBasedTraceIdRatio(settings.trace_ratio),
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.otlp_endpoint)))
    trace.set_tracer_provider(provider)


def _add_request(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if identity := request_id():
        event["request_id"] = identity
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = trace.format_trace_id(span.trace_id)
    return event


def _add_frames(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Put an exception's description in its place."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event["exception"] = describe(error)
    return event


def describe(error: BaseException) -> str:
    """An exception, its causes and their frames, without locals, and without messages that may quote a document."""
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        words = f": {current}" if isinstance(current, _SPEAKING) else ""
        frames = "".join(traceback.format_tb(current.__traceback__))
        parts.append(f"{type(current).__module__}.{type(current).__qualname__}{words}\n{frames}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\ncaused by ".join(parts)


_PROCESSORS: tuple[structlog.typing.Processor, ...] = (
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    _add_request,
    _add_frames,
)

# Through the standard library's loggers, so that a process that sets nothing up (a test) says nothing below a warning.
structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        *_PROCESSORS,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=True,
)
