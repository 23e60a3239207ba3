"""A receiver in a process of its own, to be attacked: what it logs, holds and leaves can be asked.

It stores for real and throws away what it stored, so that a long run needs no disk.
"""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import django

from router.spool import AssociationFacts, Counts, Spool, Spooled
from tests.halves import halves
from tests.ingest.certificates import authority, signed
from tests.receivers import CT, EXPLICIT_LITTLE, make_object
from tests.senders import IMPLICIT_LITTLE, VERIFICATION, RawAssociation

if TYPE_CHECKING:
    from ingest import scp
    from ingest.waiting import Port

ROOT = Path(__file__).parents[3]
HOST = "127.0.0.1"
CONFUSED = "association.confused"
OURS, AUTHORITY = "ours", "ca"
CLEAR_PEAK = "5"  # proc(5), clear_refs
# Below the folder nothing else may ever exist.
_LAWFUL = re.compile(
    r"(errors|confused)\.log|(ca|ours)\.(pem|key|srl|csr|ext)|"
    r"spool(/(inbox|owners|rejections)(/[^/]+)?)?|"
    r"spool/inbox/[0-9a-f]{32}/(association(_end)?\.json|[0-9a-f]{32}\.part|"
    r"[0-9a-f]{32}\.[0-9a-f]{64}\.dcm|[^/]*\.tmp)"
)


class Sweeping:
    """An intake that throws everything away."""

    def __init__(self, root: Path) -> None:
        self._inbox = root / "inbox"

    def association_opened(self, facts: AssociationFacts, contexts: object) -> None:
        """Nothing to do."""

    def association_closed(self, facts: AssociationFacts, reason: str, counts: Counts) -> None:
        shutil.rmtree(self._inbox / facts.id, ignore_errors=True)

    def stored(self, spooled: Spooled) -> None:
        spooled.path.unlink()

    def refused(self, facts: AssociationFacts, **details: object) -> None:
        """Nothing to do."""

    def disk_state(self, state: str, free: int) -> None:
        """Nothing to do."""


@dataclass(frozen=True)
class Target:
    """A receiver that runs."""

    process: "subprocess.Popen[str]"
    port: int
    folder: Path
    secure_port: int = 0

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def resident(self) -> int:
        """Resident memory in bytes."""
        return self._status("VmRSS") * 1024

    def peak(self) -> int:
        """Resident memory in bytes at its highest since `forget_peak`."""
        return self._status("VmHWM") * 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text(CLEAR_PEAK)

    def processor_seconds(self) -> float:
        """What the process has used of the processors, for itself and in the kernel for it."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def threads(self) -> int:
        return self._status("Threads")

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def errors(self) -> str:
        """Everything logged at ERROR, tracebacks included."""
        return (self.folder / "errors.log").read_text()

    def confused(self) -> Counter[str]:
        """Events that the upper layer's state machine did not foresee, with how often."""
        return Counter((self.folder / "confused.log").read_text().splitlines())

    def strangers(self) -> list[str]:
        """Files and folders that have no place where they are."""
        found = (
            (Path(folder) / name).relative_to(self.folder).as_posix()
            for folder, folders, files in os.walk(self.folder)  # folders may go while we look
            for name in (*folders, *files)
        )
        return sorted(path for path in found if not _LAWFUL.fullmatch(path))

    def parts(self) -> list[str]:
        """Halves of objects that were left."""
        return [path.name for path in halves(self.folder)]

    def is_healthy(self) -> bool:
        """Whether an honest peer is served."""
        contexts = [(VERIFICATION, [IMPLICIT_LITTLE]), (CT, [EXPLICIT_LITTLE])]
        with RawAssociation(HOST, self.port, contexts=contexts) as assoc:
            return assoc.echo() == 0 and assoc.store(make_object())[0] == 0

    def settle(self, *, threads: int, descriptors: int = 1 << 20, seconds: float = 60.0) -> None:
        """Wait until as few threads run, and as few descriptors are open, as before."""
        deadline = time.monotonic() + seconds
        while self.threads() > threads or self.descriptors() > descriptors:
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split(f"{name}:")[1].split()[0])


def certify(folder: Path) -> None:
    """Papers for the receiver that will be attacked below `folder`: it gets a TLS port too."""
    signed(folder, OURS, authority(folder, AUTHORITY))


@contextmanager
def attacked(folder: Path, **patience: float) -> Iterator[Target]:
    """A receiver below `folder` with short patience (see `receiver_of`), ended afterwards."""
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__]
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"}
    with subprocess.Popen(
        [*command, str(folder), json.dumps(patience)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            port, _, secure_port = process.stdout.readline().partition(" ")
            yield Target(process, int(port), folder, int(secure_port.strip() or 0))
        finally:
            process.kill()


def main() -> None:
    """The process itself: prints its port and serves until its input ends."""
    folder, patience = Path(sys.argv[1]), json.loads(sys.argv[2])
    django.setup()
    log = logging.FileHandler(folder / "errors.log")
    log.setLevel(logging.ERROR)
    logging.basicConfig(handlers=[log, _Confusions(folder)], level=logging.INFO, force=True)
    from ingest import scp

    scp.quiet_libraries()
    threading.excepthook = _note_death
    listening = _listen(folder, **patience)
    print(listening.address[1], listening.secure_port or "", flush=True)  # noqa: T201
    sys.stdin.read()
    listening.stop(grace=0.0)


class _Confusions(logging.FileHandler):
    """Keeps what was said of confused associations, a line each."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "confused.log")
        self.addFilter(lambda record: record.getMessage() == CONFUSED)
        self.setFormatter(logging.Formatter("%(error)s"))


def _note_death(death: threading.ExceptHookArgs) -> None:
    """A thread that ends by an exception is an error like any other."""
    if death.exc_value is not None:
        name = death.thread.name if death.thread else "?"
        logging.error("thread %s died", name, exc_info=death.exc_value)  # noqa: LOG015


def _listen(folder: Path, **patience: float) -> "scp.Listening":
    from ingest import scp

    receiver = receiver_of(folder, **patience)
    return scp.listen(receiver, scp.open_listener(HOST, 0), secure=_secure_port(folder))


def receiver_of(
    folder: Path,
    *,
    most: float = 200,
    most_per_address: float = 200,
    pdu_seconds: float = 2.0,
    request_seconds: float = 2.0,
    idle_seconds: float = 3.0,
) -> "scp.Receiver":
    """A receiver that keeps nothing, with patience and limits in seconds and connections."""
    from ingest import scp
    from ingest.disk import DiskGate
    from ingest.guard import ConnectionTable
    from ingest.handlers import Storage
    from ingest.sources import Sources
    from ingest.wire import Pace
    from router.rejections import RejectionJournal

    spool = Spool(folder / "spool")
    gate = DiskGate(spool.free_bytes, slow=2000, refuse=1000)
    return scp.Receiver(
        ae_title="DICOMROUTER",
        storage=Storage(spool, Sweeping(spool.root), gate, lambda *_: "no", lambda *_: 0),
        sources=Sources(folder / "sources.json"),
        rejections=RejectionJournal(spool.root / "rejections"),
        connections=ConnectionTable(most=int(most), most_per_address=int(most_per_address)),
        idle_seconds=idle_seconds,
        request_seconds=request_seconds,
        pace=Pace(pdu_seconds=pdu_seconds, window_seconds=pdu_seconds),
    )


def _secure_port(folder: Path) -> "Port | None":
    from ingest import scp
    from ingest.tls import server_context
    from ingest.waiting import Port

    certificate = folder / f"{OURS}.pem"
    if not certificate.exists():
        return None
    context = server_context(certificate, folder / f"{OURS}.key", None)
    return Port(scp.open_listener(HOST, 0), context)


if __name__ == "__main__":
    main()
