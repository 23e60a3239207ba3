"""DICOM over TLS (PS3.15 B.12, BCP 195): the context from files, and a handshake with a deadline.

TLS 1.2 and later with forward secrecy and authenticated encryption (RFC 9325 4.2). With a CA
every peer must show a certificate of it. It refuses to know what is spoken inside.
"""

import select
import socket
import ssl
import time
from pathlib import Path

CIPHERS = ":".join(
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
    )
)


def server_context(certificate: Path, key: Path | None, ca: Path | None) -> ssl.SSLContext:
    """What the listener presents and demands; without `key` it lies beside the certificate.

    Raises OSError (ssl.SSLError is one) when a file is missing or wrong.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.options |= ssl.OP_NO_COMPRESSION
    context.load_cert_chain(certificate, key)
    if ca is not None:
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def shake_hands(sock: socket.socket, context: ssl.SSLContext, *, deadline: float) -> ssl.SSLSocket:
    """The secure socket, with `sock` inside. Raises OSError; TimeoutError past the deadline.

    `sock` stays the caller's to close when this raises.
    """
    sock.settimeout(0.0)
    inner = sock.dup()
    try:
        inner.settimeout(0.0)
        secure = context.wrap_socket(inner, server_side=True, do_handshake_on_connect=False)
    except BaseException:
        inner.close()
        raise
    try:
        _finish(secure, deadline)
    except BaseException:
        secure.close()
        raise
    sock.close()
    return secure


def _finish(secure: ssl.SSLSocket, deadline: float) -> None:
    while True:
        try:
            secure.do_handshake()
        except ssl.SSLWantReadError:
            _wait(secure, select.POLLIN, deadline)
        except ssl.SSLWantWriteError:
            _wait(secure, select.POLLOUT, deadline)
        else:
            return


def _wait(sock: socket.socket, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(sock, event)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise TimeoutError("the TLS handshake took too long")
