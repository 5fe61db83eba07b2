"""Who is calling: from the credential alone, never from the request."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from serving.errors import FailedPrecondition
from serving.limits import MAX_ACCESS_GROUPS, MAX_TENANT_CHARACTERS
from serving.telemetry import get_logger

from .errors import Unauthenticated
from .settings import GatewaySettings

_log = get_logger(__name__)
_HOW = "send the metadata `authorization: Bearer KEY` (the SDK takes it from HEADWATER_API_KEY)"
_NOBODY = hashlib.sha256().digest()


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever calls, and what they may use at once. 0 is no bound."""

    tenant: str
    access_groups: tuple[str, ...] = ()
    credential: bytes = b""
    """SHA-256 of the key: quotas are counted by it."""
    max_concurrent_calls: int = 0
    requests_per_second: float = 0.0


class _Key(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", to_lower=True)]
    tenant: Annotated[str, StringConstraints(pattern=rf"^[A-Za-z0-9][A-Za-z0-9_.-]{{0,{MAX_TENANT_CHARACTERS - 1}}}$")]
    access_groups: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = Field((), max_length=MAX_ACCESS_GROUPS)
    max_concurrent_calls: int = Field(0, ge=0)
    requests_per_second: float = Field(0.0, ge=0)


class _KeysFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[_Key, ...]


class OpenDoor:
    """Auth `none`: everybody is the tenant "default"."""

    def authenticate(self, authorization: str) -> Caller:
        """The caller; a key that is sent anyway is not looked at."""
        return Caller("default")


class KeyFile:
    """Auth `keys`: a file of hashed keys, read again when it changes. A bad change is logged and the former file
    stays."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = self._stat()
        try:
            self._callers = _read(path)
        except (OSError, ValidationError) as error:
            raise FailedPrecondition(
                f"auth is `keys`, but {path} cannot be used: {_why(error)}; "
                "see HEADWATER_GATEWAY__KEYS_PATH in the settings reference for its form",
                reason="KEYS_UNUSABLE",
            ) from error

    def authenticate(self, authorization: str) -> Caller:
        """The caller whose key is in `Bearer KEY`. Raises Unauthenticated."""
        self._reload()
        scheme, _, key = authorization.partition(" ")
        if not authorization:
            raise Unauthenticated(f"this gateway needs a key: {_HOW}", reason="KEY_MISSING")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthenticated(f"the authorization metadata is not `Bearer KEY`: {_HOW}", reason="KEY_MISSING")
        # What is looked up is a hash, so its timing tells nothing about the keys; the comparison itself is
        # constant-time.
        sent = hashlib.sha256(key.strip().encode()).digest()
        caller = self._callers.get(sent)
        if not hmac.compare_digest(sent, caller.credential if caller else _NOBODY) or caller is None:
            raise Unauthenticated("this key is not known here: check it, or ask for one", reason="KEY_UNKNOWN")
        return caller

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _reload(self) -> None:
        version = self._stat()
        if version == self._version:
            return
        self._version = version
        try:
            self._callers = _read(self._path)
            _log.info("keys were read again", keys=len(self._callers))
        except (OSError, ValidationError) as error:
            _log.error("the keys file changed and cannot be used; the former keys stay", why=_why(error))


def open_authenticator(settings: GatewaySettings, host: str) -> OpenDoor | KeyFile:
    """The authenticator of the settings. Raises FailedPrecondition when nobody would be asked on a public address."""
    match settings.auth:
        case "keys":
            return KeyFile(settings.keys_path)
        case "none":
            if not settings.allow_unauthenticated and not _is_loopback(host):
                raise FailedPrecondition(
                    f"auth is `none` and the gateway would listen on {host}: set HEADWATER_GATEWAY__AUTH=keys, "
                    "or HEADWATER_GATEWAY__ALLOW_UNAUTHENTICATED=true if everybody who reaches it may use it",
                    reason="UNAUTHENTICATED_ON_NETWORK",
                )
            return OpenDoor()


def _read(path: Path) -> Mapping[bytes, Caller]:
    callers = {}
    for key in _KeysFile.model_validate_json(path.read_bytes()).keys:
        credential = bytes.fromhex(key.sha256)
        callers[credential] = Caller(
            key.tenant,
            tuple(sorted(set(key.access_groups))),
            credential,
            key.max_concurrent_calls,
            key.requests_per_second,
        )
    return callers


def _why(error: OSError | ValidationError) -> str:
    """In words, without the file's content: it may hold a key by mistake."""
    if isinstance(error, OSError):
        return (error.strerror or "it cannot be read").lower()
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg'].lower()}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
