"""The kind `dicom` over TLS, against pynetdicom, DCMTK and Orthanc; and every way it can fail."""

import hashlib
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ingest.tls import server_context
from router.destinations import KINDS
from router.destinations.base import Context, Outgoing, Result, Sender
from router.destinations.outcomes import Outcome
from tests.ingest.certificates import Pair, authority, signed
from tests.orthanc import Orthanc
from tests.ports import free_port
from tests.router.destinations.objects import made, real_files, stored
from tests.sinks import RawSink, Script, Sink

STORESCP = "/usr/bin/storescp"


@dataclass(frozen=True)
class Papers:
    """Certificates of a run: two authorities, the peer's papers and ours."""

    ca: Pair
    other_ca: Pair
    peer: Pair
    ours: Pair
    foreign: Pair
    elsewhere: Pair
    expired: Pair


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    folder = tmp_path_factory.mktemp("papers")
    ca, other = authority(folder), authority(folder, "other-ca")
    return Papers(
        ca,
        other,
        peer=signed(folder, "peer", ca),
        ours=signed(folder, "ours", ca),
        foreign=signed(folder, "foreign", other),
        elsewhere=signed(folder, "elsewhere", ca, names="DNS:pacs.example"),
        expired=signed(folder, "expired", ca, days=-1),
    )


def tls_sink(shown: Pair, ca: Pair | None = None) -> Sink:
    context = server_context(shown.certificate, shown.key, ca.certificate if ca else None)
    return Sink(Script(tls=context))


def sender(sink: Sink | RawSink, **settings: object) -> Sender:
    given = sink.settings | {"response_timeout": "5s", "connect_timeout": "5s", "tls": True}
    form = KINDS["dicom"].form(
        given | {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}
    )
    assert form.is_valid(), form.errors
    return KINDS["dicom"].sender(form.cleaned_data)


def send(sink: Sink | RawSink, items: list[Outgoing], **settings: object) -> list[Result]:
    return list(sender(sink, **settings).send(items, Context()))


def fingerprint(pair: Pair) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())).hexdigest()


def refused(results: list[Result], words: str) -> None:
    """Nothing left, the lane is stopped, and the sentence says why."""
    assert [result.outcome for result in results] == [Outcome.CONFIGURATION] * len(results)
    assert {result.lane for result in results} == {"configuration"}
    assert words in results[0].detail


class TestDelivery:
    def test_objects_small_and_large_arrive_byte_for_byte(
        self, tmp_path: Path, papers: Papers
    ) -> None:
        items = [made(tmp_path, item_id=n) for n in range(1, 4)]
        items.append(made(tmp_path, item_id=9, PixelData=bytes(range(256)) * (1 << 16)))
        moved: list[int] = []
        with tls_sink(papers.peer) as sink:
            sent = sender(sink, tls_ca=papers.ca.certificate)
            results = list(sent.send(items, Context(progress=moved.append)))
            assert sink.hashes() == {item.sop_instance_uid: item.sha256 for item in items}
        assert {result.outcome for result in results} == {Outcome.DELIVERED}
        assert sum(moved) > sum(item.size for item in items)

    def test_our_certificate_is_shown(self, tmp_path: Path, papers: Papers) -> None:
        with tls_sink(papers.peer, papers.ca) as sink:
            [result] = send(
                sink,
                [made(tmp_path)],
                tls_ca=papers.ca.certificate,
                tls_certificate=papers.ours.certificate,
                tls_key_file=papers.ours.key,
            )
        assert result.outcome == Outcome.DELIVERED

    def test_a_pinned_certificate_needs_no_authority(self, tmp_path: Path, papers: Papers) -> None:
        with tls_sink(papers.foreign) as sink:
            [result] = send(sink, [made(tmp_path)], tls_pin=fingerprint(papers.foreign))
        assert result.outcome == Outcome.DELIVERED

    def test_another_name_may_be_expected(self, tmp_path: Path, papers: Papers) -> None:
        with tls_sink(papers.elsewhere) as sink:
            [result] = send(
                sink,
                [made(tmp_path)],
                tls_ca=papers.ca.certificate,
                tls_server_name="pacs.example",
            )
        assert result.outcome == Outcome.DELIVERED

    def test_verify_says_what_tls_rests_on(self, papers: Papers) -> None:
        with tls_sink(papers.peer) as sink:
            verification = sender(sink, tls_ca=papers.ca.certificate).verify()
        assert verification.ok
        step = verification.steps[1]
        assert (step.name, step.ok) == ("tls", True)
        assert "its certificate is trusted and for 127.0.0.1" in step.detail


class TestTheirPapers:
    def test_another_authority(self, tmp_path: Path, papers: Papers) -> None:
        with tls_sink(papers.foreign) as sink:
            results = send(sink, [made(tmp_path)], tls_ca=papers.ca.certificate)
            assert sink.objects == []
        refused(results, "of an authority that is not trusted")

    def test_another_name(self, tmp_path: Path, papers: Papers) -> None:
        with tls_sink(papers.elsewhere) as sink:
            results = send(sink, [made(tmp_path)], tls_ca=papers.ca.certificate)
        refused(results, "not for the address 127.0.0.1")

    def test_a_name_of_ours_that_is_not_theirs(self, tmp_path: Path, papers: Papers) -> None:
        with tls_sink(papers.peer) as sink:
            results = send(
                sink,
                [made(tmp_path)],
                tls_ca=papers.ca.certificate,
                tls_server_name="pacs.example",
            )
        refused(results, "not for the name pacs.example")

    def test_expired(self, tmp_path: Path, papers: Papers) -> None:
        with tls_sink(papers.expired) as sink:
            results = send(sink, [made(tmp_path)], tls_ca=papers.ca.certificate)
        refused(results, "the peer's certificate has expired")

    def test_another_than_the_pinned_one(self, tmp_path: Path, papers: Papers) -> None:
        with tls_sink(papers.peer) as sink:
            results = send(sink, [made(tmp_path)], tls_pin=fingerprint(papers.foreign))
            assert sink.objects == []
        refused(
            results, f"another certificate than the pinned one (SHA-256 {fingerprint(papers.peer)})"
        )

    def test_verify_stops_there(self, papers: Papers) -> None:
        with tls_sink(papers.expired) as sink:
            verification = sender(sink, tls_ca=papers.ca.certificate).verify()
        assert [(step.name, step.ok) for step in verification.steps] == [
            ("connection", True),
            ("tls", False),
        ]


class TestOurPapers:
    def ours(self, papers: Papers, pair: Pair) -> dict[str, Path]:
        return {
            "tls_ca": papers.ca.certificate,
            "tls_certificate": pair.certificate,
            "tls_key_file": pair.key,
        }

    def test_none_where_one_is_wanted(self, tmp_path: Path, papers: Papers) -> None:
        with tls_sink(papers.peer, papers.ca) as sink:
            results = send(sink, [made(tmp_path)], tls_ca=papers.ca.certificate)
        refused(results, "wants a certificate of ours")

    def test_of_another_authority(self, tmp_path: Path, papers: Papers) -> None:
        with tls_sink(papers.peer, papers.ca) as sink:
            results = send(sink, [made(tmp_path)], **self.ours(papers, papers.foreign))
        refused(results, "refuses our certificate")

    def test_expired(self, tmp_path: Path, papers: Papers) -> None:
        with tls_sink(papers.peer, papers.ca) as sink:
            results = send(sink, [made(tmp_path)], **self.ours(papers, papers.expired))
        refused(results, "refuses our certificate: it has expired")

    def test_files_that_are_not_there(self, tmp_path: Path, papers: Papers) -> None:
        with tls_sink(papers.peer) as sink:
            results = send(sink, [made(tmp_path)], tls_ca=tmp_path / "gone.pem")
        refused(results, f"{tmp_path / 'gone.pem'} cannot be read (No such file or directory)")

    def test_a_key_that_does_not_fit(self, tmp_path: Path, papers: Papers) -> None:
        wrong = self.ours(papers, papers.ours) | {"tls_key_file": papers.peer.key}
        with tls_sink(papers.peer) as sink:
            refused(send(sink, [made(tmp_path)], **wrong), "and its key do not fit")

    def test_a_key_from_the_environment(
        self, tmp_path: Path, papers: Papers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PACS_TLS_KEY", papers.ours.key.read_text())
        named = {
            "tls_ca": papers.ca.certificate,
            "tls_certificate": papers.ours.certificate,
            "tls_key_env": "PACS_TLS_KEY",
        }
        with tls_sink(papers.peer, papers.ca) as sink:
            assert send(sink, [made(tmp_path)], **named)[0].outcome == Outcome.DELIVERED
            monkeypatch.delenv("PACS_TLS_KEY")
            refused(send(sink, [made(tmp_path)], **named), "PACS_TLS_KEY is not set")


class TestNoTls:
    def test_a_peer_without_tls(self, tmp_path: Path, papers: Papers) -> None:
        with Sink() as sink:
            results = send(sink, [made(tmp_path)], tls_ca=papers.ca.certificate)
        assert {result.lane for result in results} <= {"configuration", "transport"}
        assert "TLS" in results[0].detail

    def test_a_peer_with_tls_only(self, tmp_path: Path, papers: Papers) -> None:
        with tls_sink(papers.peer) as sink:
            [result] = send(sink, [made(tmp_path)], tls=False)
        assert (result.outcome, result.lane) == (Outcome.NOT_SENT, "transport")

    def test_an_older_version(self, tmp_path: Path, papers: Papers) -> None:
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.load_cert_chain(papers.peer.certificate, papers.peer.key)
        with Sink(Script(tls=old)) as sink:
            results = send(sink, [made(tmp_path)], tls_ca=papers.ca.certificate)
        refused(results, "does not speak TLS 1.2 or later")

    def test_silence_ends_in_time(self, tmp_path: Path, papers: Papers) -> None:
        def say_nothing(connection: socket.socket) -> None:
            while connection.recv(1 << 16):
                pass

        with RawSink(say_nothing) as sink:
            [result] = send(sink, [made(tmp_path)], connect_timeout="1s")
        assert (result.outcome, result.lane) == (Outcome.NOT_SENT, "transport")
        assert "not done within 1 seconds" in result.detail


@contextmanager
def dcmtk(papers: Papers, folder: Path, *options: str) -> Iterator[int]:
    """DCMTK's storescp with TLS."""
    port = free_port()
    command = [STORESCP, "+tls", str(papers.peer.key), str(papers.peer.certificate)]
    command += ["+cf", str(papers.ca.certificate), *options]
    command += ["+B", "+xa", "-od", str(folder), "-aet", "SCP", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield port
        process.terminate()


class TestDcmtk:
    """It wants a certificate (`-rc`, its default) or not (`-ic`)."""

    def settings(self, papers: Papers, port: int, **more: object) -> Sender:
        given = {"host": "localhost", "port": port, "ae_title": "SCP", "tls": True}
        form = KINDS["dicom"].form(given | {"tls_ca": str(papers.ca.certificate)} | more)
        assert form.is_valid(), form.errors
        return KINDS["dicom"].sender(form.cleaned_data)

    def test_takes_real_files_from_who_shows_a_certificate(
        self, tmp_path: Path, papers: Papers
    ) -> None:
        (folder := tmp_path / "arrived").mkdir()
        files = [p for p in real_files() if p.stat().st_size < 1 << 20][:12]
        items = [stored(p, tmp_path, item_id=n) for n, p in enumerate(files, 1)]
        ours = {
            "tls_certificate": str(papers.ours.certificate),
            "tls_key_file": str(papers.ours.key),
        }
        with dcmtk(papers, folder) as port:
            results = list(self.settings(papers, port, **ours).send(items, Context()))
            arrived = len(list(folder.iterdir()))
        delivered = [r for r in results if r.outcome == Outcome.DELIVERED]
        assert arrived == len(delivered) > len(items) // 2
        as_stored = {(item.item_id, item.transfer_syntax): item.sha256 for item in items}
        untouched = [r for r in delivered if (r.item_id, r.transfer_syntax) in as_stored]
        assert len(untouched) > len(items) // 2
        for one in untouched:
            assert one.egress_sha256 == as_stored[one.item_id, str(one.transfer_syntax)]

    def test_refuses_who_shows_none(self, tmp_path: Path, papers: Papers) -> None:
        with dcmtk(papers, tmp_path) as port:
            refused(
                list(self.settings(papers, port).send([made(tmp_path)], Context())),
                "wants a certificate of ours",
            )

    def test_is_refused_under_another_name(self, tmp_path: Path, papers: Papers) -> None:
        with dcmtk(papers, tmp_path, "-ic") as port:
            wrong = self.settings(papers, port, tls_server_name="pacs.example")
            refused(list(wrong.send([made(tmp_path)], Context())), "not for the name pacs.example")


class TestOrthanc:
    def test_takes_objects_over_tls(self, tmp_path: Path, papers: Papers) -> None:
        options: dict[str, Any] = {
            "DicomTlsEnabled": True,
            "DicomTlsCertificate": str(papers.peer.certificate),
            "DicomTlsPrivateKey": str(papers.peer.key),
            "DicomTlsTrustedCertificates": str(papers.ca.certificate),
            "DicomAlwaysAllowStore": True,
        }
        items = [made(tmp_path, item_id=n) for n in range(1, 4)]
        with Orthanc(tmp_path / "orthanc", router_port=free_port(), **options) as orthanc:
            given = {"host": "localhost", "port": orthanc.port, "ae_title": "ORTHANC", "tls": True}
            given |= {"tls_ca": str(papers.ca.certificate)}
            ours = {
                "tls_certificate": str(papers.ours.certificate),
                "tls_key_file": str(papers.ours.key),
            }
            form = KINDS["dicom"].form(given | ours)
            assert form.is_valid(), form.errors
            results = list(KINDS["dicom"].sender(form.cleaned_data).send(items, Context()))
            assert orthanc.hashes() == {item.sop_instance_uid: item.sha256 for item in items}
            bare = KINDS["dicom"].form(given)
            assert bare.is_valid()
            refusals = list(KINDS["dicom"].sender(bare.cleaned_data).send(items, Context()))
        assert {result.outcome for result in results} == {Outcome.DELIVERED}
        refused(refusals, "wants a certificate of ours")
