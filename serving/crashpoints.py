"""Named points at which a test may have the process killed, to show that no instruction is a bad one to die at."""

from __future__ import annotations

import os
import signal

_armed = ""


def arm(name: str) -> None:
    """Choose the point this process dies at; "" for none. Called once, before the service starts."""
    global _armed
    _armed = name


def crash_point(name: str) -> None:
    """Die by SIGKILL here if this is the point that was chosen."""
    if _armed and _armed == name:
        os.kill(os.getpid(), signal.SIGKILL)
