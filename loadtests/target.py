"""Where load may be sent: this machine, unless its owner says otherwise."""

from __future__ import annotations

import re

LOOPBACK = "127.0.0.1"
ALLOW_OPTION = "--i-own-this-target"
_LOOPBACK_ADDRESS = re.compile(rf"{re.escape(LOOPBACK)}:([0-9]{{1,5}})")


class RefusedTarget(ValueError):
    """Load may not be sent there."""


def check_target(address: str, *, owned: bool) -> str:
    """The address, when load may be sent to it. Raises RefusedTarget.

    A name is refused even when it means this machine today: what it means is not decided here.
    """
    port = _LOOPBACK_ADDRESS.fullmatch(address)
    if port and 0 < int(port[1]) < 65536:
        return address
    if not address:
        raise RefusedTarget(f"name the gateway to send load to, as --address {LOOPBACK}:PORT")
    if owned:
        return address
    raise RefusedTarget(
        f"load goes to {LOOPBACK}:PORT only, and {address!r} is something else: forward a port of this machine to it, "
        f"or say with {ALLOW_OPTION} that it is yours to overload"
    )
