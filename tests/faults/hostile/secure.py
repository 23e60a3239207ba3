"""Silent TLS clients around an honest one (R29): those who say nothing cost it nothing.

The silent stop at each step of a handshake: before a byte, within the first record, and after a
whole ClientHello, when a thread of their own waits for the rest.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.faults.hostile.target import AUTHORITY, HOST, Target
from tests.senders import IMPLICIT_LITTLE, VERIFICATION, RawAssociation

ADDRESSES = 30
PATIENCE = {"request_seconds": 10.0, "most": 200, "most_per_address": 20}


def client(target: Target) -> ssl.SSLContext:
    """Trusts the target."""
    return ssl.create_default_context(cafile=target.folder / f"{AUTHORITY}.pem")


def client_hello(target: Target) -> bytes:
    """The first record of a lawful handshake (RFC 8446 4.1.2)."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    talk = client(target).wrap_bio(incoming, outgoing, server_hostname=HOST)
    with contextlib.suppress(ssl.SSLWantReadError):
        talk.do_handshake()
    return outgoing.read()


@contextmanager
def silence(target: Target, peers: int) -> Iterator[list[socket.socket]]:
    """Peers of many addresses that are silent from some step on."""
    hello = client_hello(target)
    words = (b"", hello[:3], hello)
    with ExitStack() as stack:
        found = []
        for number in range(peers):
            source = (f"127.0.2.{number % ADDRESSES + 1}", 0)
            address = HOST, target.secure_port
            sock = stack.enter_context(socket.create_connection(address, 10, source))
            sock.sendall(words[number % len(words)])
            found.append(sock)
        yield found


def greet(target: Target) -> float:
    """Seconds until an association over TLS stood; then it echoes."""
    began = time.monotonic()
    contexts = [(VERIFICATION, [IMPLICIT_LITTLE])]
    port, tls = target.secure_port, client(target)
    with RawAssociation(HOST, port, contexts=contexts, tls=tls) as assoc:
        seconds = time.monotonic() - began
        assert assoc.echo() == 0
    return seconds
