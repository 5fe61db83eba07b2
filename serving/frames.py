"""What a service and a process of its own say to each other over pipes: a length-prefixed JSON header, and bytes."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from typing import IO, Any, BinaryIO, Final

_LENGTHS: Final = struct.Struct(">II")

Header = dict[str, Any]


def encode(header: Header, body: bytes) -> bytes:
    """One frame."""
    packed = json.dumps(header).encode()
    return _LENGTHS.pack(len(packed), len(body)) + packed + body


def read(stream: IO[bytes]) -> tuple[Header, bytes] | None:
    """The next frame; None when the other side has gone."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    header_bytes, body_bytes = _LENGTHS.unpack(lengths)
    header, body = stream.read(header_bytes), stream.read(body_bytes)
    return None if len(header) + len(body) < header_bytes + body_bytes else (json.loads(header), body)


async def receive(stream: asyncio.StreamReader) -> tuple[Header, bytes]:
    """The next frame. Raises asyncio.IncompleteReadError when the other side has gone."""
    header_bytes, body_bytes = _LENGTHS.unpack(await stream.readexactly(_LENGTHS.size))
    return json.loads(await stream.readexactly(header_bytes)), await stream.readexactly(body_bytes)


def take_stdout() -> BinaryIO:
    """For such a process: keep its standard output for frames alone, whatever a library prints there."""
    frames = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return frames
