"""Ports for what must be told its port before it listens: the product, Orthanc, servers to miss.

They lie below those that the kernel gives to connections and to who asks for any (32768 and up on
Linux), and a name in the kernel marks them as taken: nothing of this suite, in this process or in
one beside it, gets one twice while its process lives.
"""

import errno
import random
import socket

FIRST, AFTER = 20_000, 32_000
_TRIES = 1000

_held: list[socket.socket] = []


def free_port() -> int:
    """Return a port on which nothing listens and which no other test is given."""
    for _ in range(_TRIES):
        port = random.SystemRandom().randrange(FIRST, AFTER)
        if _is_unused(port) and _take(port):
            return port
    raise AssertionError(f"no free port from {FIRST} to {AFTER}")


def _is_unused(port: int) -> bool:
    with socket.socket() as probe:
        return _binds(probe, ("", port))


def _take(port: int) -> bool:
    """Mark a port as ours for the life of this process."""
    mark = socket.socket(socket.AF_UNIX)
    if _binds(mark, f"\0router-test-port-{port}"):
        _held.append(mark)
        return True
    mark.close()
    return False


def _binds(one: socket.socket, address: str | tuple[str, int]) -> bool:
    try:
        one.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


if __name__ == "__main__":
    print(free_port())  # noqa: T201 - deploy/test asks for one
