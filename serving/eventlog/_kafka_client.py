"""aiokafka's clients with the settings that durability rests on, started and dropped with a time limit."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import IllegalOperation, InvalidProducerEpoch, KafkaError, ProducerFenced

from serving.errors import FailedPrecondition

from . import LogSettings, LogUnavailable, Topic
from ._rules import MAX_RECORD_BYTES, READ_BYTES

KAFKA_ERRORS: Final = (KafkaError, IllegalOperation, OSError, TimeoutError)
FENCES: Final = (ProducerFenced, InvalidProducerEpoch)
MAX_MESSAGE_BYTES: Final = MAX_RECORD_BYTES + 2 * 1024 * 1024
"""A record at the limit, with its headers and framing."""
STOP_SECONDS: Final = 5.0
RETRY_BACKOFF_SECONDS: Final = 0.5
"""A producer sends a batch again after this long, and never sooner."""


def topic_name(settings: LogSettings, topic: Topic) -> str:
    return f"{settings.topic_prefix}{topic}"


def connection(settings: LogSettings) -> dict[str, Any]:
    """aiokafka's options of how brokers are reached. Raises FailedPrecondition for certificates that cannot be read."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "security_protocol": settings.security_protocol,
    }
    if settings.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = settings.sasl_mechanism
        options["sasl_plain_username"] = settings.sasl_username
        options["sasl_plain_password"] = settings.sasl_password.get_secret_value()
    if settings.security_protocol.endswith("SSL"):
        options["ssl_context"] = _tls(settings)
    return options


def _tls(settings: LogSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca_path)
        if settings.tls_certificate_path:
            context.load_cert_chain(settings.tls_certificate_path, settings.tls_key_path)
    except OSError as error:  # ssl.SSLError is one
        raise FailedPrecondition(
            f"the log's certificates cannot be read ({error}): look at tls_ca_path, tls_certificate_path and "
            "tls_key_path"
        ) from error
    return context


@contextmanager
def as_unavailable(what: str, hint: str = "") -> Iterator[None]:
    """Turn Kafka's errors into LogUnavailable."""
    try:
        yield
    except KAFKA_ERRORS as error:
        raise LogUnavailable(f"{what}: the Kafka log does not answer ({type(error).__name__}){hint}") from error


def security_hint(settings: LogSettings) -> str:
    """What else an unanswered first connection may mean: aiokafka tells a refused login only to its logger."""
    if settings.security_protocol == "PLAINTEXT":
        return ""
    return (
        f"; with {settings.security_protocol} that may also be a refused login or certificate: look at sasl_username, "
        "sasl_password and tls_ca_path, and at what aiokafka logged"
    )


async def start_consumer(settings: LogSettings, **options: Any) -> AIOKafkaConsumer:
    """A read_committed consumer; options are aiokafka's."""
    consumer = AIOKafkaConsumer(
        **connection(settings),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="none",
        max_partition_fetch_bytes=READ_BYTES,
        request_timeout_ms=10_000,
        metadata_max_age_ms=30_000,
        **options,
    )
    try:
        await consumer.start()
    except BaseException:
        await stop_consumer(consumer)
        raise
    return consumer


async def stop_consumer(consumer: AIOKafkaConsumer) -> None:
    # in a task, since `stop` can end with the CancelledError of a fetch that it cancelled, and leave the rest undone
    stopping = asyncio.create_task(consumer.stop())
    await asyncio.wait({stopping}, timeout=STOP_SECONDS)
    stopping.cancel()
    if stopping.done() and not stopping.cancelled():
        stopping.exception()
    await consumer._client.close()


async def start_producer(settings: LogSettings, **options: Any) -> AIOKafkaProducer:
    """An idempotent producer that waits for all in-sync replicas; options are aiokafka's."""
    producer = AIOKafkaProducer(
        **connection(settings),
        acks="all",
        enable_idempotence=True,
        max_request_size=MAX_MESSAGE_BYTES,
        max_batch_size=64 * 1024,
        retry_backoff_ms=int(RETRY_BACKOFF_SECONDS * 1000),
        request_timeout_ms=10_000,
        metadata_max_age_ms=30_000,
        **options,
    )
    try:
        await producer.start()
    except BaseException:
        await drop_producer(producer)
        raise
    return producer


def is_fenced(producer: AIOKafkaProducer, error: BaseException) -> bool:
    """Whether the error comes of a newer producer with the same transactional id.

    The one that meets the fence is a background task, and what is called after it may complain of something else.
    """
    sender = producer._sender.sender_task
    behind = sender.exception() if sender is not None and sender.done() and not sender.cancelled() else None
    return isinstance(error, FENCES) or isinstance(behind, FENCES)


async def drop_producer(producer: AIOKafkaProducer) -> None:
    """Close without flushing: `stop` would send on what may be refused for ever, or land long after it was given up."""
    producer._closed = True
    await producer.client.close()
    sender = producer._sender.sender_task
    # the first cancel has the sender wait for requests in flight, the next ones end those
    while sender is not None and not sender.done():
        sender.cancel()
        await asyncio.wait({sender}, timeout=0.05)
    # a fence fails these too, for nobody: asyncio would log each as an error that was missed
    waiters = [batch._drain_waiter for batches in producer._message_accumulator._batches.values() for batch in batches]
    if producer._txn_manager.transactional_id is not None:
        waiters.append(producer._txn_manager._transaction_waiter)
    for waiter in waiters:
        if waiter is not None and waiter.done() and not waiter.cancelled():
            waiter.exception()
