"""The TLS port: real handshakes, mutual trust, DCMTK, and peers that speak the wrong tongue."""

import shutil
import socket
import ssl
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from ingest import scp
from ingest.tls import server_context
from ingest.waiting import HTTP, PLAIN_ON_TLS, SILENT, TLS_ON_PLAIN, Port
from tests.ingest.certificates import Pair, authority, signed
from tests.ingest.conftest import StartReceiver
from tests.receivers import CT, EXPLICIT_LITTLE, Running, make_object
from tests.senders import ConnectionEnded, RawAssociation

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Papers:
    """Who trusts whom in these tests."""

    ca: Pair
    ours: Pair
    peer: Pair
    stranger: Pair


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    folder = tmp_path_factory.mktemp("tls")
    ca, other = authority(folder), authority(folder, "other")
    return Papers(
        ca, signed(folder, "ours", ca), signed(folder, "peer", ca), signed(folder, "them", other)
    )


@pytest.fixture
def secure(start_receiver: StartReceiver, papers: Papers) -> Running:
    """A receiver whose TLS port demands a certificate."""
    context = server_context(papers.ours.certificate, papers.ours.key, papers.ca.certificate)
    return start_receiver(
        secure=Port(scp.open_listener(HOST, 0), context),
        most=150,
        most_per_address=150,
        request_seconds=3.0,
    )


def client(papers: Papers, pair: Pair | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=papers.ca.certificate)
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


def port_of(running: Running) -> int:
    assert running.listening.secure_port is not None
    return running.listening.secure_port


def connect(running: Running, papers: Papers, pair: Pair | None) -> RawAssociation:
    return RawAssociation(
        HOST, port_of(running), contexts=[(CT, [EXPLICIT_LITTLE])], tls=client(papers, pair)
    )


def reasons(running: Running, count: int) -> list[str]:
    """The reasons journaled, once there are `count`."""
    found: list[str] = []
    deadline = time.monotonic() + 15
    while len(found) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
        with running.receiver.rejections.take() as lines:
            found += [line.reason for line in lines for _ in range(line.count)]
    return found


def test_stores_over_tls(secure: Running, papers: Papers) -> None:
    small, large = make_object(1), make_object(2, pixels=3 << 20)
    with connect(secure, papers, papers.peer) as assoc:
        assert assoc.store(small)[0] == 0
        assert assoc.store(large)[0] == 0
        assert assoc.store(small, fragment=7)[0] == 0
    secure.intake.wait_closed()
    assert [secure.data(item) for item in secure.intake.objects] == [
        small.data,
        large.data,
        small.data,
    ]
    assert secure.intake.opened[0][0].secure is True
    assert secure.intake.closed[0][1] == "released"


def test_the_plain_port_beside_it_is_not_secure(secure: Running) -> None:
    with RawAssociation(HOST, secure.port, contexts=[(CT, [EXPLICIT_LITTLE])]) as assoc:
        assert assoc.store(make_object())[0] == 0
    secure.intake.wait_closed()
    assert secure.intake.opened[0][0].secure is False


@pytest.mark.parametrize("who", [None, "stranger"])
def test_a_peer_without_our_authority_is_refused(
    secure: Running, papers: Papers, who: str | None
) -> None:
    pair = papers.stranger if who else None
    with pytest.raises((ssl.SSLError, ConnectionEnded, ConnectionError)):
        connect(secure, papers, pair)
    assert reasons(secure, 1) == ["tls_handshake_failed"]
    assert secure.intake.opened == []


def test_old_tls_is_refused(secure: Running, papers: Papers) -> None:
    context = client(papers, papers.peer)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        pytest.raises((ssl.SSLError, ConnectionError)),
        socket.create_connection((HOST, port_of(secure)), timeout=10) as sock,
    ):
        context.wrap_socket(sock, server_hostname=HOST)


def test_a_cipher_without_forward_secrecy_is_refused(secure: Running, papers: Papers) -> None:
    context = client(papers, papers.peer)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-GCM-SHA256")
    with (
        pytest.raises((ssl.SSLError, ConnectionError)),
        socket.create_connection((HOST, port_of(secure)), timeout=10) as sock,
    ):
        context.wrap_socket(sock, server_hostname=HOST)


@pytest.mark.parametrize(
    ("to_secure", "first", "reason"),
    [
        (True, b"\x01\x00\x00\x00\x00\x80" + bytes(128), PLAIN_ON_TLS),
        (True, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", HTTP),
        (False, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(506), TLS_ON_PLAIN),
        (False, b"POST /x HTTP/1.1\r\nHost: a\r\n\r\n", HTTP),
    ],
)
def test_the_wrong_tongue_is_closed_at_once_with_its_name(
    secure: Running, to_secure: bool, first: bytes, reason: str
) -> None:
    port = port_of(secure) if to_secure else secure.port
    with socket.create_connection((HOST, port), timeout=15) as sock:
        sock.sendall(first)
        assert sock.recv(100) == b""
    assert reasons(secure, 1) == [reason]


def test_silent_tls_peers_delay_nobody_and_are_sent_away(secure: Running, papers: Papers) -> None:
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection((HOST, port_of(secure)), timeout=20))
            for _ in range(100)
        ]
        for sock in silent[::2]:
            sock.sendall(b"\x16\x03\x01")
        with connect(secure, papers, papers.peer) as assoc:
            assert assoc.store(make_object())[0] == 0
        assert all(sock.recv(10) == b"" for sock in silent)
    assert set(reasons(secure, 100)) == {SILENT}
    assert len(secure.receiver.connections) == 0


@pytest.mark.parametrize("tool", ["echoscu", "storescu"])
def test_dcmtk_speaks_tls_with_us(secure: Running, papers: Papers, tool: str) -> None:
    # pynetdicom installs programs of the same names into the virtual environment.
    program = shutil.which(tool, path="/usr/bin:/usr/local/bin")
    assert program is not None, "DCMTK is missing (see deploy/debian-packages)"
    command = [program, "-aec", "DICOMROUTER", "+tls", str(papers.peer.key)]
    command += [str(papers.peer.certificate), "+cf", str(papers.ca.certificate)]
    command += [HOST, str(port_of(secure))]
    if tool == "storescu":
        command += ["-xe", str(get_testdata_file("CT_small.dcm"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    secure.intake.wait_closed()
    assert secure.intake.closed[0][1] == "released"
    assert len(secure.files()) == (1 if tool == "storescu" else 0)


def test_a_wrong_file_is_an_error_at_once(papers: Papers, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        server_context(tmp_path / "none.pem", papers.ours.key, None)
    with pytest.raises(ssl.SSLError):
        server_context(papers.ours.certificate, papers.peer.key, None)
