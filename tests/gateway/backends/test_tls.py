"""Connections to a model server with TLS: whose certificate it must be, and until when it holds."""

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.backends.pool import Pool
from tidegate.config.settings import RelaySettings
from tidegate.errors import UpstreamUnavailable

NAME = "vllm.example.internal"
ENDS = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(days=9)


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of NAME, trusted by this process."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.OID_COMMON_NAME, NAME)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(ENDS - datetime.timedelta(days=30))
        .not_valid_after(ENDS)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return path


@asynccontextmanager
async def server(certificate: Path) -> AsyncIterator[int]:
    """The port of something that speaks TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context) as made:
        yield made.sockets[0].getsockname()[1]


def test_at_a_found_address_the_certificate_must_be_the_names(certificate: Path) -> None:
    async def open_as(name: str) -> float | None:
        async with server(certificate) as port:
            pool = Pool(f"https://{name}:{port}", RelaySettings(), "127.0.0.1")
            connection = await pool.open()
            connection.close()
            return pool.certificate_expires

    assert asyncio.run(open_as(NAME)) == ENDS.timestamp()
    with pytest.raises(UpstreamUnavailable, match="SSLCertVerificationError"):
        asyncio.run(open_as("another.example.internal"))
