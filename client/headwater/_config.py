"""Where the gateway is and who calls it: explicit arguments first, then the environment."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final
from urllib.parse import urlsplit

from ._errors import InvalidArgument

DEFAULT_ADDRESS: Final = "127.0.0.1:8001"
DEFAULT_PORT: Final = 8001
MAX_TIMEOUT_SECONDS: Final = 600.0  # the gateway's longest deadline

_SERVICE_CONFIG: Final = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


@dataclass(frozen=True, slots=True)
class Config:
    """How to reach the gateway.

    target: as gRPC takes it.
    metadata: goes with every call.
    timeout_seconds: of a call that names none.
    retries: most times that a read is tried again.
    """

    target: str
    tls: bool
    root_certificates: bytes | None
    metadata: tuple[tuple[str, str], ...] = field(repr=False)
    timeout_seconds: float
    retries: int
    options: tuple[tuple[str, Any], ...]


def read_config(
    address: str | None,
    *,
    api_key: str | None,
    tls: bool | None,
    root_certificates: bytes | None,
    insecure: bool,
    timeout: float,
    retries: int,
) -> Config:
    """The configuration that these arguments and the environment make. Raises InvalidArgument."""
    address = address or os.environ.get("HEADWATER_ADDRESS") or DEFAULT_ADDRESS
    api_key = api_key if api_key is not None else os.environ.get("HEADWATER_API_KEY", "")
    target, secure = _target(address.strip())
    tls = secure if tls is None else tls
    loopback = _is_loopback(target)
    if api_key and not (api_key.isascii() and api_key.isprintable()):
        raise InvalidArgument("the API key must be printable ASCII; check HEADWATER_API_KEY", field="api_key")
    if api_key and not tls and not loopback and not insecure:
        raise InvalidArgument(
            f"the API key would go to {target} unencrypted; use https://{target}, or allow it with insecure=True",
            field="address",
            reason="PLAINTEXT_KEY",
        )
    return Config(
        target=target,
        tls=tls,
        root_certificates=root_certificates,
        metadata=(("authorization", f"Bearer {api_key}"),) if api_key else (),
        timeout_seconds=check_timeout(timeout),
        retries=retries,
        options=_options(loopback),
    )


def check_timeout(seconds: float) -> float:
    """The timeout, when it is one that the gateway takes; else InvalidArgument."""
    if not 0 < seconds <= MAX_TIMEOUT_SECONDS:
        raise InvalidArgument(f"timeout must be above 0 and at most {MAX_TIMEOUT_SECONDS:g} s", field="timeout")
    return seconds


def _target(address: str) -> tuple[str, bool]:
    scheme, separator, rest = address.partition("://")
    if separator and scheme in ("http", "https"):
        rest = rest.rstrip("/")
    elif address.startswith(("dns:", "ipv4:", "ipv6:", "unix:")):
        return address, False
    elif separator:
        raise InvalidArgument(f"address {address!r} is none of host:port, http://… and https://…", field="address")
    else:
        rest = address
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidArgument(f"address {address!r} is not host:port: {error}", field="address") from None
    if not host or parts.path or parts.query or parts.username is not None:
        raise InvalidArgument(f"address {address!r} is not host:port", field="address")
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port or (443 if scheme == 'https' and separator else DEFAULT_PORT)}", scheme == "https"


def _is_loopback(target: str) -> bool:
    host = target.rpartition(":")[0].strip("[]")
    return target.startswith("unix:") or host in ("localhost", "::1") or host.startswith("127.")


def _options(loopback: bool) -> tuple[tuple[str, Any], ...]:
    return (
        ("grpc.max_receive_message_length", -1),  # 256 queries of 1,000 hits are the gateway's to bound
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.primary_user_agent", f"headwater-python/{version('headwater')}"),
        # A gateway that was restarted is found again within seconds; gRPC's own limit is two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        # a new client must not inherit an old one's wait for a gateway that is back, and retries must outlast the wait
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 500),
        # A proxy from the environment cannot reach this machine's loopback.
        ("grpc.enable_http_proxy", 0 if loopback else 1),
    )
