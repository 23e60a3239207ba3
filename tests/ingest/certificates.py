"""Certificates of a test run, made by the openssl program: an authority and what it signs."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM files."""

    certificate: Path
    key: Path


def authority(folder: Path, name: str = "ca") -> Pair:
    """A certificate authority of its own."""
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    _openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-days", "30", "-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE",
        "-keyout", str(pair.key), "-out", str(pair.certificate),
    )  # fmt: skip
    return pair


def signed(
    folder: Path,
    name: str,
    ca: Pair,
    *,
    names: str = "DNS:localhost,IP:127.0.0.1",
    days: int = 30,
) -> Pair:
    """A certificate for `localhost` and 127.0.0.1, or other `names`, signed by `ca`; one of
    negative `days` has expired."""
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
    extensions.write_text(f"subjectAltName={names}\n")
    _openssl(
        "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
        "-keyout", str(pair.key), "-out", str(request),
    )  # fmt: skip
    _openssl(
        "x509", "-req", "-in", str(request), "-CA", str(ca.certificate), "-CAkey", str(ca.key),
        "-CAcreateserial", "-days", str(days), "-extfile", str(extensions),
        "-out", str(pair.certificate),
    )  # fmt: skip
    return pair


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
