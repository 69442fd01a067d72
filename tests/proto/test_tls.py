"""TLS between client and gateway, with and without a client certificate."""

import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from roost import Client, TLSConfig, errors
from roost.v1.session_service_pb2_grpc import add_SessionServiceServicer_to_server
from scripted_gateway import SESSION, ScriptedGateway


def certificate(name: str) -> tuple[bytes, bytes]:
    """A fresh self-signed certificate for `name`, and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), pem


@asynccontextmanager
async def secure_gateway(name: str, clients: bytes | None = None) -> AsyncIterator[tuple[str, bytes]]:
    """A gateway with a certificate for `name`; its address, and the certificate. `clients` signs its clients'."""
    cert, key = certificate(name)
    credentials = grpc.ssl_server_credentials(
        [(key, cert)], root_certificates=clients, require_client_auth=clients is not None
    )
    server = grpc.aio.server()
    add_SessionServiceServicer_to_server(ScriptedGateway(), server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}", cert
    finally:
        await server.stop(None)


async def test_a_gateway_is_known_by_its_certificate() -> None:
    async with secure_gateway("gateway.test") as (target, cert):
        tls = TLSConfig(root_certificates=cert, server_name="gateway.test")
        async with await Client.connect(target, tls=tls, api_key="k") as client:
            assert (await client.session(SESSION).info()).id == SESSION


async def test_a_gateway_that_nobody_vouches_for_is_refused() -> None:
    async with secure_gateway("gateway.test") as (target, _):
        with pytest.raises(errors.UnavailableError):
            await Client.connect(target, tls=True)
        with pytest.raises(errors.UnavailableError):
            await Client.connect(target, tls=TLSConfig(root_certificates=certificate("gateway.test")[0]))


async def test_a_client_shows_its_own_certificate() -> None:
    cert, key = certificate("client.test")
    async with secure_gateway("gateway.test", clients=cert) as (target, root):
        tls = TLSConfig(root, client_certificate=cert, client_key=key, server_name="gateway.test")
        async with await Client.connect(target, tls=tls) as client:
            assert (await client.session(SESSION).info()).id == SESSION
