import pytest
from pydantic import ValidationError

from services.cache.settings import Settings


def test_setting_one_field_of_a_group_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_SERVER__HOST", "127.0.0.2")
    monkeypatch.setenv("HEADWATER_CACHE__MAX_ENTRIES", "7")
    settings = Settings()
    assert (settings.server.host, settings.server.grpc_port, settings.server.metrics_port) == ("127.0.0.2", 8041, 8042)
    assert (settings.cache.max_entries, settings.cache.engine) == (7, "redis")


def test_bound_of_staleness_cannot_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_CACHE__CURRENCY_SECONDS", "2.1")
    with pytest.raises(ValidationError):
        Settings()


def test_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_CACHE__REDIS_URL", "redis://:hunter2@127.0.0.1:6379/0")
    settings = Settings()
    assert "hunter2" not in f"{settings!r} {settings.model_dump()}"
