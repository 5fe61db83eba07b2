"""Where the gateway is and who calls."""

import pytest
from headwater import InvalidArgument
from headwater._config import Config, read_config


def config(address: str | None = None, *, api_key: str | None = None, insecure: bool = False) -> Config:
    return read_config(
        address, api_key=api_key, tls=None, root_certificates=None, insecure=insecure, timeout=60, retries=4
    )


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADWATER_ADDRESS", raising=False)
    monkeypatch.delenv("HEADWATER_API_KEY", raising=False)


@pytest.mark.parametrize(
    ("address", "target", "tls"),
    [
        (None, "127.0.0.1:8001", False),
        ("localhost", "localhost:8001", False),
        ("host:9", "host:9", False),
        ("http://host:9/", "host:9", False),
        ("https://host", "host:443", True),
        ("https://host:9", "host:9", True),
        ("[::1]:9", "[::1]:9", False),
        ("dns:///host:9", "dns:///host:9", False),
    ],
)
def test_addresses(address: str | None, target: str, tls: bool) -> None:
    made = config(address)
    assert (made.target, made.tls) == (target, tls)


@pytest.mark.parametrize("address", ["host:port", "ftp://host", "host:99999", "host/path", "user@host", ":9"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        config(address)
    assert caught.value.field == "address"


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("HEADWATER_API_KEY", "theirs")
    assert config().target == "127.0.0.1:1"
    assert config().metadata == (("authorization", "Bearer theirs"),)
    mine = config("127.0.0.1:2", api_key="mine")
    assert (mine.target, mine.metadata) == ("127.0.0.1:2", (("authorization", "Bearer mine"),))
    assert config(api_key="").metadata == ()


@pytest.mark.parametrize("address", ["192.0.2.1:8001", "http://host:8001", "dns:///host:8001", "localhost.example:1"])
def test_a_key_does_not_go_unencrypted_to_another_machine(address: str) -> None:
    with pytest.raises(InvalidArgument, match="unencrypted"):
        config(address, api_key="secret")
    assert config(address, api_key="secret", insecure=True).metadata
    assert config(address).metadata == ()


@pytest.mark.parametrize("address", ["https://host", "127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/run/headwater"])
def test_a_key_goes_where_nobody_listens(address: str) -> None:
    assert config(address, api_key="secret").metadata


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(config(api_key="secret"))


@pytest.mark.parametrize("key", ["schlüssel", "a\nb"])
def test_a_key_that_no_header_can_hold(key: str) -> None:
    with pytest.raises(InvalidArgument):
        config(api_key=key)
