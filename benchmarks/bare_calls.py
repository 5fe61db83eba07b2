"""The least that the calls of a question cost: the same hops between as many processes, with nothing done in them.

`python -m benchmarks.bare_calls BASE_PORT NUMBER DELAY_MS` is a process that answers after a delay; number 0 asks the
others, in the order of a question.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

import grpc
import uvloop

from tests.harness.processes import free_port_base

_METHOD = "/headwater.benchmarks.Bare/Call"
_PAYLOAD = bytes(1024)
_CACHE, _EMBED, _RETRIEVE, _GENERATE = range(1, 5)


def median_ms(embed_ms: float, generate_ms: float, count: int) -> float:
    """Client's wall time of a call through five processes, minus these delays, in milliseconds, median."""
    base = free_port_base()
    delays = {0: 0.0, _CACHE: 0.0, _EMBED: embed_ms, _RETRIEVE: 0.0, _GENERATE: generate_ms}
    with ExitStack() as running:
        for number, delay_ms in delays.items():
            command = [sys.executable, "-m", "benchmarks.bare_calls", str(base), str(number), str(delay_ms)]
            process = running.enter_context(subprocess.Popen(command))
            running.callback(process.kill)
        channel = running.enter_context(grpc.insecure_channel(f"127.0.0.1:{base}"))
        call = channel.unary_unary(_METHOD)
        walls = []
        for _ in range(count):
            began = time.perf_counter()
            call(_PAYLOAD, wait_for_ready=True, timeout=30)
            walls.append((time.perf_counter() - began) * 1000)
    return statistics.median(walls) - embed_ms - generate_ms


async def _serve(base: int, number: int, delay_ms: float) -> None:
    others = {}
    if number == 0:
        for other in (_CACHE, _EMBED, _RETRIEVE, _GENERATE):
            others[other] = grpc.aio.insecure_channel(f"127.0.0.1:{base + other}").unary_unary(_METHOD)

    async def ask(number: int) -> None:
        await others[number](_PAYLOAD, wait_for_ready=True)

    async def answer(request: bytes, context: object) -> bytes:
        await asyncio.sleep(delay_ms / 1000)
        if others:
            await asyncio.gather(ask(_CACHE), ask(_EMBED))
            await ask(_RETRIEVE)
            await ask(_GENERATE)
        return request

    service, _, method = _METHOD.strip("/").partition("/")
    server = grpc.aio.server()
    handlers = {method: grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"127.0.0.1:{base + number}")
    await server.start()
    await server.wait_for_termination()


def main(arguments: Sequence[str]) -> None:
    base, number, delay_ms = arguments
    uvloop.run(_serve(int(base), int(number), float(delay_ms)))


if __name__ == "__main__":
    main(sys.argv[1:])
