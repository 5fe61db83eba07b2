"""Who is let in, and as whom."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.authentication import Caller, KeyFile, open_authenticator
from services.gateway.errors import Unauthenticated
from services.gateway.settings import GatewaySettings
from serving.errors import FailedPrecondition

KEY = "secret-of-acme"


def write(path: Path, *keys: dict[str, Any], modified: int = 0) -> Path:
    path.write_text(json.dumps({"keys": keys}))
    if modified:
        os.utime(path, ns=(modified, modified))
    return path


def entry(key: str = KEY, tenant: str = "acme", **more: Any) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(key.encode()).hexdigest(), "tenant": tenant, **more}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_tells_tenant_groups_and_quotas(path: Path) -> None:
    write(path, entry(access_groups=["hr", "board", "hr"], max_concurrent_calls=3, requests_per_second=5))
    caller = KeyFile(path).authenticate(f"Bearer {KEY}")
    assert caller == Caller("acme", ("board", "hr"), hashlib.sha256(KEY.encode()).digest(), 3, 5.0)


@pytest.mark.parametrize("sent", ["", "Bearer", "Bearer ", f"Basic {KEY}", KEY, f"Bearer {KEY}x", "Bearer \u00e9"])
def test_anything_but_a_known_key_is_refused_with_what_to_do(path: Path, sent: str) -> None:
    door = KeyFile(write(path, entry()))
    with pytest.raises(Unauthenticated) as caught:
        door.authenticate(sent)
    assert "key" in caught.value.message.lower()
    assert KEY not in caught.value.message


@given(st.text())
def test_no_text_opens_a_door_without_keys(tmp_path_factory: pytest.TempPathFactory, sent: str) -> None:
    door = KeyFile(write(tmp_path_factory.mktemp("keys") / "keys.json"))
    with pytest.raises(Unauthenticated):
        door.authenticate(sent)


def test_a_changed_file_is_read_again(path: Path) -> None:
    door = KeyFile(write(path, entry(), modified=1))
    write(path, entry("new", "globex"), modified=2)
    assert door.authenticate("Bearer new").tenant == "globex"
    with pytest.raises(Unauthenticated):
        door.authenticate(f"Bearer {KEY}")


@pytest.mark.parametrize("damage", ["{", '{"keys": [{"sha256": "abc", "tenant": "acme"}]}', '{"keys": [], "more": 1}'])
def test_a_damaged_file_leaves_the_former_keys(path: Path, damage: str) -> None:
    door = KeyFile(write(path, entry(), modified=1))
    path.write_text(damage)
    assert door.authenticate(f"Bearer {KEY}").tenant == "acme"


def test_a_missing_file_leaves_the_former_keys(path: Path) -> None:
    door = KeyFile(write(path, entry()))
    path.unlink()
    assert door.authenticate(f"Bearer {KEY}").tenant == "acme"


@pytest.mark.parametrize("content", [None, "{", '{"keys": [{"sha256": "SECRET", "tenant": "acme"}]}'])
def test_a_gateway_does_not_start_without_usable_keys_nor_repeats_them(path: Path, content: str | None) -> None:
    if content is not None:
        path.write_text(content)
    with pytest.raises(FailedPrecondition) as caught:
        open_authenticator(GatewaySettings(auth="keys", keys_path=path), "0.0.0.0")
    assert str(path) in caught.value.message
    assert "SECRET" not in caught.value.message


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]"])
def test_without_keys_loopback_is_the_default_tenant(host: str) -> None:
    assert open_authenticator(GatewaySettings(), host).authenticate("").tenant == "default"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "gateway.example"])
def test_without_keys_other_addresses_are_refused_unless_allowed(host: str) -> None:
    with pytest.raises(FailedPrecondition, match="HEADWATER_GATEWAY__AUTH=keys"):
        open_authenticator(GatewaySettings(), host)
    allowed = GatewaySettings(allow_unauthenticated=True)
    assert open_authenticator(allowed, host).authenticate("").tenant == "default"
