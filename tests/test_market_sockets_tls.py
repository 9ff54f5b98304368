"""Market data over TLS: a server whose certificate is signed by an authority that is trusted, and one that is not."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from engine.records import Kind
from procs.venues.binance_usdm.endpoints import Endpoints
from procs.venues.binance_usdm.signed import tls_context
from shm.clock import sleep
from tests.socket_venue import SocketVenue
from tests.test_ingestion import running
from tests.test_kraken_futures import update
from tests.test_markets import contract, kraken_futures
from tests.waiting import until

NOTHING = "http://127.0.0.1:1"


def make_authority(folder: Path, address: str) -> tuple[Path, ssl.SSLContext]:
    """(the file that says whom to trust, what a server at the address goes by)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of this test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    trusted, private = folder / "trusted.pem", folder / "key.pem"
    trusted.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, private)
    return trusted, context


@pytest.fixture
def trust(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Whom this process trusts may be changed for a test."""
    tls_context.cache_clear()
    yield monkeypatch
    tls_context.cache_clear()


def test_books_come_over_tls(tmp_path: Path, trust: pytest.MonkeyPatch) -> None:
    trusted, server = make_authority(tmp_path, "127.0.0.1")
    trust.setattr(certifi, "where", lambda: str(trusted))
    with (
        SocketVenue(kraken_futures, server).running() as venue,
        running(Endpoints(NOTHING, venue.url), tmp_path, 1 << 12, contract()) as run,
    ):
        assert venue.url.startswith("wss://")
        until(lambda: run.ready, "book")
        venue.tell(update(326072250))
        until(lambda: (run.take()["kind"] == Kind.LEVEL).sum() == 4 + 1, "levels")
        venue.cut()
        until(lambda: venue.connections == 2 and (run.take()["kind"] == Kind.LEVEL).sum() == 9, "the book again")


@pytest.mark.parametrize("wrong", ["authority", "address"])
def test_a_server_that_is_not_who_it_says_gets_no_request(
    tmp_path: Path, trust: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], wrong: str
) -> None:
    trusted, server = make_authority(tmp_path, "127.0.0.2" if wrong == "address" else "127.0.0.1")
    if wrong == "address":
        trust.setattr(certifi, "where", lambda: str(trusted))
    with (
        SocketVenue(kraken_futures, server).running() as venue,
        running(Endpoints(NOTHING, venue.url), tmp_path, 1 << 12, contract()) as run,
    ):
        until(lambda: run.ingestion.sockets.losses >= 2, "refusals")
        sleep(0.1)
        assert venue.heard == [] and venue.connections == 0 and not run.ready
    (said,) = [line for line in capfd.readouterr().out.splitlines() if venue.url in line]
    assert said.startswith(f"ingestion: {venue.url}/ws/v1: SSLCertVerificationError")
