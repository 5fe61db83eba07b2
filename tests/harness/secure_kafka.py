"""A real broker that wants TLS and a password."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from tests.harness.kafka import Broker

LOOPBACK: Final = "127.0.0.1"
USER: Final = "headwater"
PASSWORD: Final = "the right one"
MECHANISM: Final = "PLAIN"
_PROPERTIES: Final = """
listeners=SASL_SSL://127.0.0.1:{{port}},OTHERS://{host}:{others_port},CONTROLLER://127.0.0.1:{{controller_port}}
advertised.listeners=SASL_SSL://127.0.0.1:{{port}},OTHERS://{host}:{others_port}
listener.security.protocol.map=SASL_SSL:SASL_SSL,OTHERS:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=SASL_SSL
sasl.enabled.mechanisms={mechanism}
sasl.mechanism.inter.broker.protocol={mechanism}
listener.name.sasl_ssl.plain.sasl.jaas.config={login}
listener.name.others.plain.sasl.jaas.config={login}
ssl.keystore.type=PEM
ssl.keystore.certificate.chain={certificate}
ssl.keystore.key={key}
ssl.truststore.type=PEM
ssl.truststore.certificates={certificate}
"""
_LOGIN: Final = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required "
    f'username="broker" password="of the broker" user_broker="of the broker" user_{USER}="{PASSWORD}";'
)


@dataclass(frozen=True)
class SecureBroker:
    """One that listens on loopback (`broker.address`) and on one more address of this machine (`others_address`)."""

    broker: Broker
    ca: Path
    """PEM file of who signed its certificate."""
    others_address: str


def secure_broker(folder: Path, host: str = LOOPBACK) -> SecureBroker:
    """Not started yet; `host` is the other address. USER gets in with PASSWORD."""
    ca = folder / "ca.pem"
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    ca.write_bytes(_certificate(key, {LOOPBACK, host}))
    ca.chmod(0o644)
    others_port = Broker.free_port()
    pkcs8 = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    properties = _PROPERTIES.format(
        host=host,
        others_port=others_port,
        mechanism=MECHANISM,
        login=_LOGIN,
        certificate=_one_line(ca.read_bytes()),
        key=_one_line(pkcs8),
    )
    return SecureBroker(Broker(folder / "broker", properties), ca, f"{host}:{others_port}")


def _certificate(key: rsa.RSAPrivateKey, hosts: set[str]) -> bytes:
    """One for these addresses, that signed itself, as PEM."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    names = [x509.IPAddress(ipaddress.ip_address(host)) for host in sorted(hosts)]
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def _one_line(pem: bytes) -> str:
    """As Kafka's properties take it."""
    return pem.decode().replace("\n", "\\n")
