"""Which gRPC client tells the truth about latency beside Locust, which runs on gevent.

`python -m loadtests.check_latency` asks a server of known delays (a process of its own) with four clients, each a
process of its own, at concurrency 1 and 32, and prints what each says a unary call, the first token of a stream and the
whole stream took:

- threads: the synchronous client on plain threads, without gevent. What the others are compared with.
- gevent: the same on greenlets of a patched process, as Locust patches it, and nothing else done about gRPC.
- init_gevent: the same after grpc.experimental.gevent.init_gevent().
- loop thread: the asynchronous client on an event loop in a thread of its own, beside gevent that patched nothing and
  is as busy as Locust is. What the load tests use: loadtests/README.md has the numbers.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack

from rich.table import Table

from loadtests.figures import percentile
from loadtests.report import wide_console

DELAY_MS = 100.0
"""Until the answer of a unary call, or the first token of a stream."""
TOKENS = 11
TOKEN_MS = 20.0
CONCURRENCIES = (1, 32)
SECONDS = 3.0
WARM_UP_SECONDS = 1.0
TIMEOUT_SECONDS = 10.0
VARIANTS = ("threads", "gevent", "init_gevent", "loop thread")
FIGURES = ("Search", "first token", "Ask")
Round = tuple[float, float, float]
SWITCH_SECONDS = 0.0005


def main(arguments: Sequence[str]) -> None:
    match arguments:
        case ["serve"]:
            asyncio.run(_serve())
        case ["ask", variant, address, concurrency]:
            print(json.dumps(_ask(variant, address, int(concurrency))))
        case []:
            _compare()
        case _:
            raise SystemExit("usage: python -m loadtests.check_latency")


def _compare() -> None:
    command = [sys.executable, "-m", "loadtests.check_latency"]
    whole_ms = DELAY_MS + (TOKENS - 1) * TOKEN_MS
    title = f"Search and the first token take {DELAY_MS:g} ms, Ask {whole_ms:g} ms; what clients say: p50 / p95 ms"
    table = Table(title=title, title_justify="left")
    for column in ("client", "at once", *FIGURES, "rounds/s"):
        table.add_column(column, justify="left" if column == "client" else "right")
    with ExitStack() as running:
        server = running.enter_context(subprocess.Popen([*command, "serve"], stdout=subprocess.PIPE, text=True))
        running.callback(server.kill)
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        for concurrency in CONCURRENCIES:
            for variant in VARIANTS:
                asked = [*command, "ask", variant, address, str(concurrency)]
                done = subprocess.run(asked, capture_output=True, text=True)
                if done.returncode:
                    table.add_row(variant, str(concurrency), f"fails: {done.stderr.strip().splitlines()[-1]}")
                    continue
                rounds: list[list[float]] = json.loads(done.stdout)
                seen = [sorted(column) for column in zip(*rounds, strict=True)]
                cells = (f"{percentile(one, 50):.1f} / {percentile(one, 95):.1f}" for one in seen)
                table.add_row(variant, str(concurrency), *cells, f"{len(rounds) / SECONDS:.1f}")
    wide_console().print(table)


async def _serve() -> None:
    import grpc
    from headwater.gateway.v1 import gateway_pb2, gateway_pb2_grpc

    class Gateway(gateway_pb2_grpc.GatewayServiceServicer):
        async def Search(
            self, request: gateway_pb2.SearchRequest, context: grpc.aio.ServicerContext
        ) -> gateway_pb2.SearchResponse:
            await asyncio.sleep(DELAY_MS / 1000)
            return gateway_pb2.SearchResponse(results=[gateway_pb2.QueryResult()])

        async def Ask(
            self, request: gateway_pb2.AskRequest, context: grpc.aio.ServicerContext
        ) -> AsyncIterator[gateway_pb2.AskResponse]:
            began = time.monotonic()
            yield gateway_pb2.AskResponse(retrieved=gateway_pb2.Retrieved())
            for token in range(TOKENS):
                due = began + (DELAY_MS + token * TOKEN_MS) / 1000
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                yield gateway_pb2.AskResponse(token=gateway_pb2.Token(text="word "))
            yield gateway_pb2.AskResponse(done=gateway_pb2.Done(answer="word"))

    server = grpc.aio.server()
    gateway_pb2_grpc.add_GatewayServiceServicer_to_server(Gateway(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def _ask(variant: str, address: str, concurrency: int) -> list[Round]:
    """What so many callers measured, of the rounds that began after the warm-up."""
    match variant:
        case "threads":
            from concurrent.futures import ThreadPoolExecutor

            def on_threads(call: Callable[[], None]) -> None:
                with ThreadPoolExecutor(concurrency) as pool:
                    for ended in [pool.submit(call) for _ in range(concurrency)]:
                        ended.result()

            return _blocking(address, on_threads)
        case "gevent" | "init_gevent":
            from gevent import joinall, monkey, spawn

            monkey.patch_all()
            if variant == "init_gevent":
                import grpc.experimental.gevent

                grpc.experimental.gevent.init_gevent()
            return _blocking(address, lambda call: joinall([spawn(call) for _ in range(concurrency)], raise_error=True))
        case "loop thread":
            return _on_a_loop(address, concurrency)
    raise ValueError(variant)


def _blocking(address: str, run: Callable[[Callable[[], None]], object]) -> list[Round]:
    from headwater import Client, Token

    seen: list[Round] = []
    with Client(address, timeout=TIMEOUT_SECONDS) as client:
        warm = time.perf_counter() + WARM_UP_SECONDS

        def call() -> None:
            while (began := time.perf_counter()) < warm + SECONDS:
                client.search("check", "how long?", k=1)
                first, asked = 0.0, time.perf_counter()
                for event in client.ask("check", "how long?"):
                    if isinstance(event, Token) and not first:
                        first = time.perf_counter()
                if began >= warm:
                    seen.append(_round(began, asked, first))

        run(call)
    return seen


def _on_a_loop(address: str, concurrency: int) -> list[Round]:
    import threading

    import gevent
    from headwater import AsyncClient, Token

    seen: list[Round] = []

    async def ask() -> None:
        async with AsyncClient(address, timeout=TIMEOUT_SECONDS) as client:
            warm = time.perf_counter() + WARM_UP_SECONDS

            async def call() -> None:
                while (began := time.perf_counter()) < warm + SECONDS:
                    await client.search("check", "how long?", k=1)
                    first, asked = 0.0, time.perf_counter()
                    async for event in client.ask("check", "how long?"):
                        if isinstance(event, Token) and not first:
                            first = time.perf_counter()
                    if began >= warm:
                        seen.append(_round(began, asked, first))

            await asyncio.gather(*(call() for _ in range(concurrency)))

    def busy() -> None:
        # Locust's part: a millisecond of Python every 50.
        while thread.is_alive():
            until = time.perf_counter() + 0.001
            while time.perf_counter() < until:
                pass
            gevent.sleep(0.05)

    sys.setswitchinterval(SWITCH_SECONDS)
    thread = threading.Thread(target=asyncio.run, args=(ask(),))
    thread.start()
    gevent.spawn(busy).join()
    return seen


def _round(began: float, asked: float, first: float) -> Round:
    """The figures of FIGURES, in milliseconds."""
    return ((asked - began) * 1000, (first - asked) * 1000, (time.perf_counter() - asked) * 1000)


if __name__ == "__main__":
    main(sys.argv[1:])
