"""The other services as the gateway's work sees them: here its values become their protos, and their statuses its
errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from serving.status import from_rpc_error


@contextmanager
def translated() -> Iterator[None]:
    """Raise what another service meant by a failed call."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error
