"""`python -m serving.probe HOST:PORT [SERVICE]`: asks a server's health (grpc.health.v1); for containers' checks.

Exit codes: 0 serving, 1 not, 2 wrong usage.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

_TIMEOUT_SECONDS = 3.0


def main(arguments: Sequence[str]) -> int:
    if len(arguments) not in (1, 2):
        print("usage: python -m serving.probe HOST:PORT [SERVICE]", file=sys.stderr)
        return 2
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    request = health_pb2.HealthCheckRequest(service=arguments[1] if len(arguments) == 2 else "")
    with grpc.insecure_channel(arguments[0]) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            print(f"{arguments[0]}: {error.code().name.lower()}", file=sys.stderr)
            return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    print(status)
    return 0 if response.status == health_pb2.HealthCheckResponse.SERVING else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
