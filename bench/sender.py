"""A storage SCU that is not the limit: one association, every PDU made before the clock starts.

A program: reads its task as one JSON line, negotiates, says `ready`, waits for `go`, sends one
object after the other (each waits for its answer, as modalities do) and prints its times.
`Sender` and `send` start and drive it from outside.
"""

import json
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import objects, processes
from tests.senders import RawAssociation, RawObject, read_raw

MOST_PDU = 131072
READY_SECONDS = 120.0
CALLING = "BENCH"


@dataclass(frozen=True)
class Task:
    """What one association sends."""

    port: int
    called: str
    files: list[str]
    run: int
    ca: str = ""


@dataclass(frozen=True)
class Report:
    """What became of it, in `time.monotonic` seconds; `last_byte` is when the last left us."""

    count: int
    failed: int
    started: float
    last_byte: float
    finished: float
    cpu: float


def send(port: int, called: str, shares: Sequence[list[str]], run: int, *, ca: str = "") -> Report:
    """Send over as many associations at once as there are shares; return all taken together.

    With `ca`, the file of an authority, over TLS.
    """
    senders = [Sender(Task(port, called, share, run, ca)) for share in shares if share]
    try:
        for sender in senders:
            sender.wait_ready()
        for sender in senders:
            sender.go()
        return combined([sender.report() for sender in senders])
    finally:
        for sender in senders:
            sender.end()


def combined(reports: Sequence[Report]) -> Report:
    """Return reports of associations that ran at once as one."""
    return Report(
        count=sum(r.count for r in reports),
        failed=sum(r.failed for r in reports),
        started=min(r.started for r in reports),
        last_byte=max(r.last_byte for r in reports),
        finished=max(r.finished for r in reports),
        cpu=sum(r.cpu for r in reports),
    )


class Sender:
    """One such process, seen from outside."""

    def __init__(self, task: Task) -> None:
        self._child = processes.start([sys.executable, "-m", "bench.sender"], piped=True)
        self._say(json.dumps(asdict(task)))

    def wait_ready(self) -> None:
        """Wait until the association stands and everything is loaded."""
        line = processes.read_line(self._child, READY_SECONDS)
        if line != "ready":
            raise processes.BenchError(f"the sender said {line!r} instead of ready")

    def go(self) -> None:
        """Start the clock."""
        self._say("go")

    def report(self, seconds: float = 1200.0) -> Report:
        """Wait for the end."""
        return Report(**json.loads(processes.read_line(self._child, seconds)))

    def end(self) -> None:
        """End the process, whatever it does."""
        processes.end(self._child)

    def _say(self, line: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(line.encode() + b"\n")
        self._child.stdin.flush()


def storescu(program: str, port: int, called: str, folder: Path) -> tuple[float, int]:
    """Send a folder with one of DCMTK's programs as shipped; return seconds and exit code."""
    options = ["--scan-directories", "--call", called, "--aetitle", CALLING]
    command = [program, *options, "127.0.0.1", str(port), str(folder)]
    started = time.monotonic()
    done = subprocess.run(
        command,
        env=processes.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=1200,
    )
    return time.monotonic() - started, done.returncode


# --- the program itself ---------------------------------------------------------------------------
def pdus(assoc: RawAssociation, item: RawObject, message_id: int) -> bytes:
    """Return a C-STORE-RQ with its data set as P-DATA PDUs (PS3.8 9.3.5)."""
    context = assoc.context_for(item.sop_class_uid, item.transfer_syntax)
    if context is None:
        raise processes.BenchError(f"the peer takes no {item.sop_class_uid}")
    elements = [
        (0x0002, _padded(item.sop_class_uid)),
        (0x0100, b"\x01\x00"),
        (0x0110, struct.pack("<H", message_id)),
        (0x0700, b"\x00\x00"),
        (0x0800, b"\x00\x00"),
        (0x1000, _padded(item.sop_instance_uid)),
    ]
    body = b"".join(struct.pack("<HHI", 0, tag, len(value)) + value for tag, value in elements)
    command = struct.pack("<HHII", 0, 0, 4, len(body)) + body
    size = min(assoc.peer_maximum or MOST_PDU, MOST_PDU) - 6
    parts = [_pdu(context, 3, command)]
    for at in range(0, len(item.data), size):
        last = at + size >= len(item.data)
        parts.append(_pdu(context, 2 if last else 0, item.data[at : at + size]))
    return b"".join(parts)


def _pdu(context: int, control: int, data: bytes) -> bytes:
    return struct.pack(">BxIIBB", 4, len(data) + 6, len(data) + 2, context, control) + data


def _padded(uid: str) -> bytes:
    raw = uid.encode("ascii")
    return raw + b"\0" * (len(raw) % 2)


def _load(path: Path, run: int) -> RawObject:
    item = read_raw(path)
    return RawObject(
        data=objects.renumbered(item.data, run),
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=objects.renumbered(item.sop_instance_uid.encode(), run).decode(),
        transfer_syntax=item.transfer_syntax,
    )


def _send_all(assoc: RawAssociation, messages: Sequence[bytes]) -> Report:
    failed, last_byte, started = 0, 0.0, time.monotonic()
    for message in messages:
        assoc.socket.sendall(message)
        last_byte = time.monotonic()
        failed += assoc.read_response()[0] != 0
    finished = time.monotonic()
    return Report(len(messages), failed, started, last_byte, finished, time.process_time())


def main() -> None:
    """Be the sender."""
    task = Task(**json.loads(sys.stdin.readline()))
    items = [_load(Path(name), task.run) for name in task.files]
    pairs = dict.fromkeys((item.sop_class_uid, item.transfer_syntax) for item in items)
    contexts = [(uid, [syntax]) for uid, syntax in pairs]
    names: dict[str, Any] = {"called_ae": task.called, "calling_ae": CALLING}  # Any: keywords
    names["tls"] = ssl.create_default_context(cafile=task.ca) if task.ca else None
    with RawAssociation("127.0.0.1", task.port, contexts=contexts, timeout=300, **names) as assoc:
        messages = [pdus(assoc, item, n % 0xFFFF + 1) for n, item in enumerate(items)]
        del items
        before = time.process_time()
        print("ready", flush=True)
        if sys.stdin.readline().strip() != "go":
            return
        report = asdict(_send_all(assoc, messages))
    report["cpu"] -= before
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
