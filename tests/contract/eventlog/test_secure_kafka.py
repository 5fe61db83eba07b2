"""The kafka engine against a broker that wants TLS and a password: who has both is served, who has not is told so."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from pydantic import SecretStr, ValidationError

from serving.errors import FailedPrecondition
from serving.eventlog import LogSettings, LogUnavailable, Topic, init_log, open_log
from tests.harness.eventlog import now_ms, read_all
from tests.harness.kafka import Broker

USER, PASSWORD = "headwater", "the right one"
PROPERTIES = """
listeners=SASL_SSL://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller_port}}
advertised.listeners=SASL_SSL://127.0.0.1:{{port}}
listener.security.protocol.map=SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=SASL_SSL
sasl.enabled.mechanisms=PLAIN
sasl.mechanism.inter.broker.protocol=PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
  username="broker" password="of the broker" user_broker="of the broker" user_{user}="{password}";
ssl.keystore.type=PEM
ssl.keystore.certificate.chain={certificate}
ssl.keystore.key={key}
ssl.truststore.type=PEM
ssl.truststore.certificates={certificate}
"""


def one_line(pem: bytes) -> str:
    """As Kafka's properties take it."""
    return pem.decode().replace("\n", "\\n")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A certificate for 127.0.0.1 that signed itself, as a file, and its key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("certificates") / "ca.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pkcs8 = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return path, pkcs8


@pytest.fixture(scope="module")
def settings(certificate: tuple[Path, bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LogSettings]:
    """Of who has the password, for a broker that runs."""
    path, key = certificate
    properties = PROPERTIES.format(
        user=USER, password=PASSWORD, certificate=one_line(path.read_bytes()), key=one_line(key)
    )
    broker = Broker(tmp_path_factory.mktemp("secure") / "broker", properties)
    if trouble := broker.start():
        pytest.skip(f"no Kafka broker could be started: {trouble}")
    yield LogSettings(
        kind="kafka",
        bootstrap_servers=broker.address,
        partitions=2,
        security_protocol="SASL_SSL",
        sasl_mechanism="PLAIN",
        sasl_username=USER,
        sasl_password=SecretStr(PASSWORD),
        tls_ca_path=path,
    )
    broker.stop()


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
