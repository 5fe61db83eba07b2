"""The kafka engine against a broker that wants TLS and a password: who has both is served, who has not is told so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from serving.errors import FailedPrecondition
from serving.eventlog import LogSettings, LogUnavailable, Topic, init_log, open_log
from tests.harness.eventlog import now_ms, read_all
from tests.harness.secure_kafka import MECHANISM, PASSWORD, USER, secure_broker


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LogSettings]:
    """Of who has the password, for a broker that runs."""
    secure = secure_broker(tmp_path_factory.mktemp("secure"))
    if trouble := secure.broker.start():
        pytest.skip(f"no Kafka broker could be started: {trouble}")
    yield LogSettings(
        kind="kafka",
        bootstrap_servers=secure.broker.address,
        partitions=2,
        security_protocol="SASL_SSL",
        sasl_mechanism=MECHANISM,
        sasl_username=USER,
        sasl_password=SecretStr(PASSWORD),
        tls_ca_path=secure.ca,
    )
    secure.broker.stop()


@pytest.mark.kafka
async def test_who_has_the_password_inits_appends_owns_and_reads(settings: LogSettings) -> None:
    await init_log(settings)
    async with open_log(settings) as log:
        await log.append(Topic.DOCUMENTS, 0, b"key", b"document", timestamp_ms=now_ms(), timeout_seconds=20)
        owned = await log.take(Topic.INDEX, 0)
        await owned.append([(b"key", b"indexed")])
        await owned.close()
        assert [record.value for record in await read_all(log, Topic.DOCUMENTS, 0)] == [b"document"]
        assert [record.value for record in await read_all(log, Topic.INDEX, 0)] == [b"indexed"]
        async with log.join("group", "member", Topic.INDEX) as membership:
            async for assignment in membership.assignments():
                assert assignment.partitions == {0, 1}
                break


@pytest.mark.kafka
@pytest.mark.parametrize(
    "wrong",
    [{"sasl_password": SecretStr("the wrong one")}, {"tls_ca_path": None}],
    ids=["password", "authority"],
)
async def test_who_has_not_is_told_where_to_look(settings: LogSettings, wrong: dict[str, object]) -> None:
    with pytest.raises(LogUnavailable) as raised:
        await init_log(settings.model_copy(update=wrong))
    assert "sasl_password" in str(raised.value)
    assert "tls_ca_path" in str(raised.value)


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    from serving.eventlog._kafka_client import connection

    settings = LogSettings(kind="kafka", security_protocol="SSL", tls_ca_path=tmp_path / "absent.pem")
    with pytest.raises(FailedPrecondition) as raised:
        connection(settings)
    assert "tls_ca_path" in str(raised.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"security_protocol": "SASL_SSL"}, "sasl_username"),
        ({"security_protocol": "SASL_PLAINTEXT", "sasl_username": "u"}, "sasl_password"),
        ({"tls_ca_path": "ca.pem"}, "SASL_SSL"),
        ({"security_protocol": "SSL", "tls_key_path": "key.pem"}, "tls_certificate_path"),
        ({"security_protocol": "TLS"}, "SASL_SSL"),
    ],
)
def test_security_that_is_not_whole_is_refused(more: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        LogSettings(kind="kafka", **more)  # type: ignore[arg-type]
    assert said in str(raised.value)
