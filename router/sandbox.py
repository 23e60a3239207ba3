"""Pixel work on what was received: one short-lived child process a job, and nothing else (R35).

The child gets bytes on its standard input and gives bytes on its standard output. It has limits on
memory and processor time, no network where the system permits that, no environment of ours, no
files to write, and a group of its own that is killed when its time is over. A decoder that crashes,
hangs or lies hits that child alone; whether its answer is sound is for the caller to check.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

ROOT: Final = Path(__file__).resolve().parent.parent
PIECE: Final = 1 << 16
TICK: Final = 0.25
MOST_WORDS: Final = 2048
JUDGED, OUT_OF_MEMORY = 3, 4
"""Exit codes of the child: it says why on its standard error; it had no memory left."""

CODECS: Final = "router.codecs.child"
_BOOT: Final = (
    "import sys, importlib; sys.path.insert(0, sys.argv[1]); "
    "importlib.import_module(sys.argv[2]).main(sys.argv[3])"
)
_ENVIRONMENT: Final = {
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may take: bytes of address space, seconds of processor and of wall clock."""

    memory: int = 1 << 30
    cpu: int = 20
    wall: float = 30.0


class SandboxError(Exception):
    """The job gave no result; the text is a clause that says why, without patient data."""


class Abandoned(SandboxError):
    """We were asked to stop."""


class Unavailable(SandboxError):
    """No child could be started, for now."""


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        ...


def _never() -> bool:
    return False


def run(
    job: Mapping[str, object],
    source: Readable,
    answer: BinaryIO,
    *,
    most: int,
    limits: Limits | None = None,
    stop: Callable[[], bool] = _never,
    entry: str = CODECS,
) -> None:
    """Have a child do `job` with what `source` holds, and write its answer to `answer`.

    Args:
        job: what the child is told, JSON-safe.
        source: read to its end, unless the child ends before.
        answer: gets at most `most` bytes.
        most: the longest answer; a longer one ends the child.
        limits: what the child may take.
        stop: asked several times a second; true ends the child.
        entry: the module whose `main` the child runs; it must confine itself first.

    Raises:
        SandboxError: there is no answer, or it is not whole; nothing of it may be used.
    """
    allowed = limits or Limits()
    told = {**job, "memory": allowed.memory, "cpu": allowed.cpu, "parent": os.getpid()}
    command = [sys.executable, "-I", "-B", "-c", _BOOT, str(ROOT), entry, json.dumps(told)]
    try:
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=_ENVIRONMENT,
            start_new_session=True,
        )
    except OSError as error:
        cause = error.strerror or "unknown"
        raise Unavailable(f"the decoder could not be started ({cause})") from error
    with child:
        try:
            _Talk(child, source, answer, most=most, stop=stop, limits=allowed).run()
        finally:
            _kill(child)


def _kill(child: "subprocess.Popen[bytes]") -> None:
    """End the child's whole group, which is its own; also after it ended by itself."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    child.wait()


class _Talk:
    """Writes to a child and reads from it until it has ended, whatever it does meanwhile."""

    def __init__(
        self,
        child: "subprocess.Popen[bytes]",
        source: Readable,
        answer: BinaryIO,
        *,
        most: int,
        stop: Callable[[], bool],
        limits: Limits,
    ) -> None:
        self._child, self._source, self._answer = child, source, answer
        self._left, self._stop, self._limits = most, stop, limits
        self._end = time.monotonic() + limits.wall
        self._waiting, self._words = memoryview(b""), b""

    def run(self) -> None:
        """Talk until the child has ended, and say how that was."""
        with selectors.DefaultSelector() as ready:
            self._register(ready)
            while ready.get_map():
                for key, _events in ready.select(self._patience()):
                    if not key.data():
                        ready.unregister(key.fileobj)
                        key.fileobj.close()  # type: ignore[union-attr]  # a pipe, never a number
        self._judge(self._wait())

    def _register(self, ready: selectors.BaseSelector) -> None:
        child = self._child
        assert child.stdin and child.stdout and child.stderr  # noqa: S101, PT018 - all are pipes
        for pipe in (child.stdin, child.stdout, child.stderr):
            os.set_blocking(pipe.fileno(), False)
        ready.register(child.stdin, selectors.EVENT_WRITE, self._feed)
        ready.register(child.stdout, selectors.EVENT_READ, self._take)
        ready.register(child.stderr, selectors.EVENT_READ, self._listen)

    def _patience(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise SandboxError(f"the decoder was not done within {self._limits.wall:g} seconds")
        if self._stop():
            raise Abandoned("the work was stopped on our side")
        return min(TICK, left)

    def _feed(self) -> bool:
        """Write the next bytes; return whether more may follow."""
        stdin = self._child.stdin
        assert stdin is not None  # noqa: S101 - a pipe
        if not self._waiting:
            self._waiting = memoryview(self._source.read(PIECE))
        try:
            moved = os.write(stdin.fileno(), self._waiting) if self._waiting else 0
        except BlockingIOError:
            return True
        except BrokenPipeError:
            moved = 0
        self._waiting = self._waiting[moved:]
        return moved > 0

    def _take(self) -> bool:
        """Keep what the child answers; return whether more may follow."""
        got = self._read(self._child.stdout)
        if got is None:
            return True
        self._left -= len(got)
        if self._left < 0:
            raise SandboxError("the decoder gave more than the image can hold")
        self._answer.write(got)
        return bool(got)

    def _listen(self) -> bool:
        got = self._read(self._child.stderr)
        if got is None:
            return True
        self._words = (self._words + got)[:MOST_WORDS]
        return bool(got)

    @staticmethod
    def _read(pipe: object) -> bytes | None:
        """Return what there is, nothing at the end, None when it was a false alarm."""
        try:
            return os.read(pipe.fileno(), PIECE)  # type: ignore[attr-defined]  # a pipe
        except BlockingIOError:
            return None

    def _wait(self) -> int:
        """Return the exit code; the pipes are closed, so the child is about to end."""
        while True:
            with suppress(subprocess.TimeoutExpired):
                return self._child.wait(self._patience())

    def _judge(self, code: int) -> None:
        if code == 0:
            return
        if code == JUDGED:
            said = self._words.rpartition(b"\x1e")[2].decode("ascii", "replace")
            words = "".join(c if c.isprintable() and c != "\ufffd" else " " for c in said)
            raise SandboxError(" ".join(words.split())[:300] or "the decoder gave no reason")
        if code == OUT_OF_MEMORY:
            mebibytes = self._limits.memory >> 20
            raise SandboxError(f"the decoder needed more than {mebibytes} MiB of memory")
        if code == -signal.SIGXCPU:
            raise SandboxError(
                f"the decoder took over {self._limits.cpu} seconds of processor time"
            )
        if code < 0:
            raise SandboxError(f"the decoder crashed ({_name(-code)})")
        raise SandboxError(f"the decoder ended with code {code}")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
