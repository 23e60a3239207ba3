"""A child of the sandbox that does what a broken or hostile decoder does."""

import ctypes
import json
import os
import resource
import signal
import socket
import sys
import time
from typing import NoReturn

from router.codecs.child import confine


def main(told: str) -> NoReturn:
    """Confine as the product does, and then misbehave as told."""
    job = json.loads(told)
    confine(job)
    sys.exit(MISDEEDS[job["misdeed"]](job))


def echo(_job: dict[str, object]) -> int:
    sys.stdout.buffer.write(sys.stdin.buffer.read())
    sys.stdout.buffer.flush()
    return 0


def crash(_job: dict[str, object]) -> int:
    return ctypes.string_at(0)[0]


def hang(_job: dict[str, object]) -> int:
    time.sleep(3600)
    return 0


def ignore(_job: dict[str, object]) -> int:
    """Close everything, catch what can be caught, and stay."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    time.sleep(3600)
    return 0


def spin(_job: dict[str, object]) -> int:
    while True:
        pass


def eat(_job: dict[str, object]) -> int:
    try:
        held = [bytes(64 << 20) for _ in range(1000)]
    except MemoryError:
        return 4
    return len(held)


def flood(_job: dict[str, object]) -> int:
    while True:
        sys.stdout.buffer.write(bytes(1 << 16))


def talk(_job: dict[str, object]) -> int:
    sys.stderr.write("noise of a library\x1ethe fault\x00 is\nhere\x1b[31m\u00e9")
    sys.stderr.flush()
    return 3


def write(_job: dict[str, object]) -> int:
    """Write a file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with open("/tmp/written-by-a-decoder", "wb") as file:  # noqa: PTH123 - as a library would
            file.write(b"x")
    except OSError:
        return 0
    finally:
        os.unlink("/tmp/written-by-a-decoder")  # noqa: PTH108 - the same
    return 1


def facts(job: dict[str, object]) -> int:
    """Tell what this process has."""
    told = {
        "environment": sorted(os.environ),
        "network": _reaches(int(str(job["port"]))),
        "group": os.getpgid(0) == os.getpid(),
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
    }
    sys.stdout.write(json.dumps(told))
    sys.stdout.flush()
    return 0


def _reaches(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def fork(_job: dict[str, object]) -> int:
    """Leave a grandchild behind that keeps the pipes open."""
    if os.fork() == 0:
        time.sleep(3600)
    sys.stdout.buffer.write(b"done")
    return 0


MISDEEDS = {
    one.__name__: one
    for one in (echo, crash, hang, ignore, spin, eat, flood, talk, write, facts, fork)
}
