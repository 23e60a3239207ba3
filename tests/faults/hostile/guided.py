"""Coverage-guided fuzzing (atheris) of what decodes a peer's bytes.

As a program: `python -m tests.faults.hostile.guided NAME SECONDS FOLDER` fuzzes one of TARGETS in
this process, which libFuzzer ends; what it finds lies in the folder. `hunt` runs that and tells
what came of it. Linux on x86-64 only, and from `tests/faults/hostile/requirements.txt`.
"""

import importlib
import importlib.util
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

LONGEST = 1 << 14
HANG_SECONDS = 30
MEMORY = Path("/dev/shm")
REQUIREMENTS = "tests/faults/hostile/requirements.txt"
# Decoders of ours, and those of pynetdicom that a peer reaches before anything of ours.
INSTRUMENTED = ["ingest", "router.dicom", "pynetdicom.pdu", "pynetdicom.pdu_items"]
ROOT = Path(__file__).parents[3]
_FIGURE = re.compile(r"stat::(number_of_executed_units|new_units_added|peak_rss_mb): *(\d+)")

One = Callable[[bytes], None]


class _Near(socket.socket):
    """A socket of a pair, that takes the options of TCP in silence."""

    def setsockopt(self, *_: object) -> None:
        return


def _command() -> tuple[One, list[bytes]]:
    """Command sets (PS3.7 6.3), and our answers to them."""
    from ingest.wire import ProtocolError, decode_command, encode_response
    from tests.faults.hostile.sessions import echo_rq, store_rq

    def one(data: bytes) -> None:
        try:
            command = decode_command(data)
        except ProtocolError:
            return
        assert len(encode_response(command, 1, status=0, comment="x" * 99)) < 1024
        command.sop_class_uid, command.sop_instance_uid  # noqa: B018  may raise nothing

    return one, [echo_rq(), store_rq(instance="1.2.3")]


def _dialogue(folder: Path) -> tuple[One, list[bytes]]:
    """PDUs and their items (PS3.8 9.3.5) as an association reads them, down to the spool."""
    from ingest.dialogue import Dialogue
    from ingest.disk import DiskGate
    from ingest.handlers import Session, Storage
    from ingest.negotiation import Proposal, negotiate
    from ingest.wire import PeerGone, ProtocolError, Reader
    from router.spool import AssociationFacts, Spool
    from tests.faults.hostile.sessions import RECORDED
    from tests.faults.hostile.target import Sweeping
    from tests.receivers import CT, EXPLICIT_LITTLE
    from tests.senders import VERIFICATION

    spool = Spool(folder / "spool")
    gate = DiskGate(spool.free_bytes, slow=2, refuse=1)
    storage = Storage(spool, Sweeping(spool.root), gate, lambda *_: "no", lambda *_: 0)
    proposals = [
        Proposal(1, VERIFICATION, ("1.2.840.10008.1.2",)),
        Proposal(3, CT, (EXPLICIT_LITTLE,)),
    ]
    contexts, _ = negotiate(proposals, frozenset({"echo", "store"}), roles={})

    def one(data: bytes) -> None:
        here, far = socket.socketpair()
        with _Near(fileno=here.detach()) as near, far:
            far.sendall(data)
            far.shutdown(socket.SHUT_WR)
            near.settimeout(HANG_SECONDS)
            facts = AssociationFacts(
                id=uuid.uuid4().hex, origin="dimse", calling_ae="A", called_ae="B",
                remote_host="127.0.0.1", remote_port=1, source="", duplicates="quarantine",
                started_at=datetime.now(UTC), secure=False,
            )  # fmt: skip
            session = Session(facts, tuple(contexts), storage=storage)
            reader = Reader(near, idle_seconds=1, pdu_seconds=1, buffer=1 << 18)
            try:
                Dialogue(reader, session, send=lambda _: None).run()
            except (ProtocolError, PeerGone):
                pass
            finally:
                session.close("lost")

    return one, [b"".join(pdus[1:])[:LONGEST] for pdus in RECORDED.values()]


def _header(_folder: Path) -> tuple[One, list[bytes]]:
    """Data sets as they are checked on receipt and read by rules; the first byte says how."""
    from tests.faults.hostile.files import SYNTAXES, Made, read_as_rules_do
    from tests.receivers import make_object

    def one(data: bytes) -> None:
        if len(data) > 1:
            read_as_rules_do(Made(data[1:], SYNTAXES[data[0] % len(SYNTAXES)]))

    return one, [bytes((1,)) + make_object(pixels=256).data]


def _request(folder: Path) -> tuple[One, list[bytes]]:
    """Association requests (PS3.8 9.3.2): decoded, judged and answered."""
    from ingest import scp
    from ingest.association import InboundAssociation
    from ingest.waiting import Port, Visitor
    from tests.faults.hostile.corpus import RQ
    from tests.faults.hostile.sessions import RECORDED
    from tests.faults.hostile.target import receiver_of

    receiver = receiver_of(folder)
    listener = scp.open_listener("127.0.0.1", 0)
    server = scp.listen(receiver, listener).server

    def one(data: bytes) -> None:
        near, far = socket.socketpair()
        with near, far:
            visitor = Visitor(near, "127.0.0.1", Port(listener), 0.0, request=b"")
            assoc = InboundAssociation(server, visitor, slot=0)
            assoc.dul._deliver(RQ[:6] + data)
            if not assoc.dul._recv_pdu.empty():
                pdu = assoc.dul._recv_pdu.get()
                assoc.requestor.primitive = pdu.to_primitive()
                assoc.acse._negotiate_as_acceptor()

    return one, [pdus[0][6:] for pdus in RECORDED.values()]


TARGETS: dict[str, Callable[[Path], tuple[One, list[bytes]]]] = {
    "command": lambda _: _command(),
    "dialogue": _dialogue,
    "request": _request,
    "header": _header,
}


def hunt(name: str, *, seconds: int) -> dict[str, object]:
    """Fuzz one target for some seconds. Raises AssertionError with the input that broke it."""
    assert importlib.util.find_spec("atheris"), f"pip install -r {REQUIREMENTS}"
    place = MEMORY if MEMORY.is_dir() else None  # what it stores is flushed each time
    with tempfile.TemporaryDirectory(prefix="hunt-", dir=place) as text:
        folder = Path(text)
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults.hostile.guided", name, str(seconds), text],
            cwd=ROOT,
            env=os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=seconds * 2 + 120,
        )
        said = done.stdout[-1000:] + done.stderr[-3000:]
        assert done.returncode == 0, f"{_found(folder)} {said}"
    figures = {key: int(value) for key, value in _FIGURE.findall(done.stderr)}
    inputs = figures["number_of_executed_units"]
    assert inputs > figures["new_units_added"] > 0, said
    return {
        "inputs": inputs,
        "kept": figures["new_units_added"],
        "peak_mib": figures["peak_rss_mb"],
        "per_second": round(inputs / seconds, 1),
    }


def _found(folder: Path) -> dict[str, str]:
    """The inputs that broke something, in hexadecimal."""
    return {path.name: path.read_bytes().hex() for path in (folder / "found").glob("*")}


def main(name: str, seconds: str, folder: Path) -> None:
    """The process itself. It ends in libFuzzer: 0 when the time is over, else with a finding."""
    atheris = importlib.import_module("atheris")  # carries no types
    with atheris.instrument_imports(include=INSTRUMENTED):
        import django

        django.setup()
        from ingest import scp

        scp.quiet_libraries()
        one, seeds = TARGETS[name](folder)
    corpus, found = folder / "corpus", folder / "found"
    for needed in (corpus, found):
        needed.mkdir()
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)
    logging.disable(logging.CRITICAL)
    atheris.Setup(
        [sys.argv[0], f"-max_total_time={seconds}", f"-max_len={LONGEST}",
         f"-artifact_prefix={found}/", f"-timeout={HANG_SECONDS}", "-print_final_stats=1",
         str(corpus)],
        one,
    )  # fmt: skip
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
