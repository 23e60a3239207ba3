"""DICOM over TLS as the client (PS3.15 B.12, BCP 195): context, handshake, and what went wrong.

TLS 1.2 and later with forward secrecy and authenticated encryption (RFC 9325 4.2). Whom it trusts
it is told; the files are read anew for each connection, so a renewed certificate needs no restart.
"""

import hashlib
import os
import select
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from router.dimse.errors import DimseError, Lost, Untrusted
from router.dimse.pace import Patience

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


@dataclass(frozen=True, slots=True)
class Tls:
    """Whom we trust and who we say we are.

    `ca` and `certificate` are PEM files; without `ca` the authorities of the system are trusted.
    `key` is asked for the PEM text of our key when a connection is made; '' when it stands in the
    file of the certificate. `server_name` is the name that the peer's certificate must bear.
    `pin` is the SHA-256 of that certificate (DER) in hexadecimal; without `ca` it is trusted by
    its pin alone. Without `verify` and `pin` any certificate will do.
    """

    server_name: str
    ca: str = ""
    certificate: str = ""
    key: Callable[[], str] = str
    pin: str = ""
    verify: bool = True


def context(tls: Tls) -> ssl.SSLContext:
    """Return the TLS context for one connection.

    Raises:
        Untrusted: a file cannot be read, or is not what it should be.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers(CIPHERS)
    made.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if not tls.verify or (tls.pin and not tls.ca):
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    elif tls.ca:
        _load(made, tls.ca, key=None)
    else:
        made.load_default_certs()
    if tls.certificate:
        _load(made, tls.certificate, key=tls.key())
    return made


def _load(made: ssl.SSLContext, path: str, *, key: str | None) -> None:
    """Load the authorities of `path`, or, with a `key`, the certificate that lies there."""
    try:
        if key is None:
            made.load_verify_locations(path)
        else:
            _load_pair(made, path, key)
    except ssl.SSLError as error:
        what = "holds no certificate" if key is None else "and its key do not fit, or are no PEM"
        raise Untrusted(f"TLS is not possible, because {path} {what}") from error
    except OSError as error:
        cause = error.strerror or "input error"
        raise Untrusted(f"TLS is not possible, because {path} cannot be read ({cause})") from error


def _load_pair(made: ssl.SSLContext, path: str, key: str) -> None:
    """OpenSSL reads keys from files only: ours lies in memory, under no name. One with a passphrase
    is refused; OpenSSL would ask the terminal for it."""
    descriptor = os.memfd_create("key")
    try:
        os.write(descriptor, key.encode())
        where = f"/proc/self/fd/{descriptor}" if key else None
        made.load_cert_chain(path, where, password=lambda: b"")
    finally:
        os.close(descriptor)


class Plain:
    """A connected socket without TLS, never blocking."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.settimeout(0)

    def push(self, buffers: list[memoryview]) -> int:
        """Send as much as is accepted now and return how many bytes that were.

        Raises:
            BlockingIOError: none. OSError: the connection is broken.
        """
        return self.socket.sendmsg(buffers)

    def take(self, most: int) -> bytes:
        """Return up to `most` bytes that are there, none at the end; raises as `push` does."""
        return self.socket.recv(most)

    def holds_more(self) -> bool:
        """Tell whether bytes were received that the system does not tell of any more."""
        return False

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


class Secure(Plain):
    """The same within TLS. What TLS refuses is raised as `Untrusted`."""

    PIECE = 1 << 16

    def __init__(self, sock: ssl.SSLSocket, tls: Tls) -> None:
        super().__init__(sock)
        self._secure, self._tls = sock, tls

    def push(self, buffers: list[memoryview]) -> int:
        """Send the beginning of `buffers`. What was not accepted must be asked for again with the
        same buffers, which OpenSSL insists on."""
        piece = bytearray()
        for buffer in buffers:
            piece += buffer[: self.PIECE - len(piece)]
            if len(piece) >= self.PIECE:
                break
        try:
            return self._secure.send(piece)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error

    def take(self, most: int) -> bytes:
        """Return up to `most` bytes."""
        try:
            return self._secure.recv(most)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error
        except ssl.SSLError as error:
            raise trouble(error, self._tls) from error

    def holds_more(self) -> bool:
        """Tell whether a record was decrypted and not wholly taken."""
        return self._secure.pending() > 0

    def close(self) -> None:
        """Say that nothing follows, without waiting for the peer to say so too, and close."""
        with suppress(OSError, ValueError):  # the peer need not answer; the connection goes
            self._secure.unwrap()
        self._secure.close()


def shake_hands(sock: socket.socket, tls: Tls, *, patience: Patience) -> Secure:
    """Return `sock` within TLS; it is closed when this raises.

    Raises:
        Untrusted, Lost, Stalled, Stopped.
    """
    try:
        secure = context(tls).wrap_socket(
            sock, server_hostname=tls.server_name, do_handshake_on_connect=False
        )
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError | ValueError):
            raise Untrusted(f"TLS is not possible for the name {tls.server_name!r}") from error
        raise
    try:
        secure.settimeout(0)
        _finish(secure, tls, patience)
        _compare_pin(secure, tls)
    except BaseException:
        secure.close()
        raise
    return Secure(secure, tls)


def _finish(secure: ssl.SSLSocket, tls: Tls, patience: Patience) -> None:
    while True:
        poll = select.poll()
        try:
            secure.do_handshake()
        except ssl.SSLWantReadError:
            poll.register(secure, select.POLLIN)
        except ssl.SSLWantWriteError:
            poll.register(secure, select.POLLOUT)
        except ssl.SSLError as error:
            raise trouble(error, tls) from error
        except OSError as error:
            raise Lost("the peer reset the connection during the TLS handshake") from error
        else:
            return
        poll.poll(patience.tick() * 1000)


def _compare_pin(secure: ssl.SSLSocket, tls: Tls) -> None:
    if not tls.pin:
        return
    shown = hashlib.sha256(secure.getpeercert(binary_form=True) or b"").hexdigest()
    if shown != tls.pin:
        raise Untrusted(f"the peer shows another certificate than the pinned one (SHA-256 {shown})")


_VERDICTS: Mapping[int, str] = {
    9: "the peer's certificate is not valid yet",
    10: "the peer's certificate has expired",
    18: "the peer's certificate is signed by itself and not trusted",
    19: "the peer's certificate is of an authority that is not trusted",
    20: "the peer's certificate is of an authority that is not trusted",
    21: "the peer's certificate is of an authority that is not trusted",
    23: "the peer's certificate is revoked",
    62: "the peer's certificate is not for the name {name}",
    64: "the peer's certificate is not for the address {name}",
}
"""By X509_verify_cert's code."""

_REFUSED = "the peer refuses our certificate"
_CIPHERS = "the peer shares no cipher with us, or wants a certificate of ours"
_PLAIN = "the peer does not speak TLS on this port"
_OLD = "the peer does not speak TLS 1.2 or later"
_REASONS: Mapping[str, str] = {
    "TLSV1_ALERT_UNKNOWN_CA": f"{_REFUSED}: it does not know its authority",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": f"{_REFUSED}: it has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": f"{_REFUSED}: it is revoked",
    "SSLV3_ALERT_BAD_CERTIFICATE": _REFUSED,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _REFUSED,
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": _REFUSED,
    "TLSV1_ALERT_ACCESS_DENIED": _REFUSED,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the peer wants a certificate of ours (tls_certificate)",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": _CIPHERS,
    "TLSV1_ALERT_INSUFFICIENT_SECURITY": _CIPHERS,
    "TLSV1_ALERT_PROTOCOL_VERSION": _OLD,
    "UNSUPPORTED_PROTOCOL": _OLD,
    "WRONG_VERSION_NUMBER": _PLAIN,
    "RECORD_LAYER_FAILURE": _PLAIN,
    "HTTP_REQUEST": _PLAIN,
}
"""By OpenSSL's reason."""


def trouble(error: ssl.SSLError, tls: Tls) -> DimseError:
    """Return what an error of OpenSSL says of the peer, as one of ours."""
    if isinstance(error, ssl.SSLCertVerificationError):
        found = _VERDICTS.get(error.verify_code)
        sentence = found or f"the peer's certificate is not trusted ({error.verify_message})"
        return Untrusted(sentence.format(name=tls.server_name))
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError):
        return Lost("the peer closed the connection during the TLS handshake")
    reason = error.reason or "unknown"
    words = reason.lower().replace("_", " ")
    return Untrusted(_REASONS.get(reason, f"TLS failed ({words})"))
