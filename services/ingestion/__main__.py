"""`python -m services.ingestion api|worker`."""

from __future__ import annotations

import sys
from typing import Final

from serving.server import ServerSettings, run

from .roles import serve_api, serve_worker
from .settings import Settings

_USAGE: Final = "usage: python -m services.ingestion api|worker"


class WorkerSettings(Settings):
    """The same, on ports of its own: a worker may run beside the API."""

    server: ServerSettings = ServerSettings(grpc_port=8053, metrics_port=8054)


def main() -> None:
    match sys.argv[1:]:
        case ["api"]:
            run("ingestion-api", Settings, serve_api)
        case ["worker"]:
            run("ingestion-worker", WorkerSettings, serve_worker)
        case _:
            print(_USAGE, file=sys.stderr)
            sys.exit(2)


if __name__ == "__main__":
    main()
