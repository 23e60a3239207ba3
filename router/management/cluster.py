"""django-q2's cluster with queues that no death can lock.

A reader of `multiprocessing.Queue` waits with the queue's lock in its hand: killed there, it leaves
every other worker waiting for good (the idle one that waits first is always in that place). Here a
message is a packet of a socket pair: the kernel gives each to one reader, whole, and nobody holds
anything. It refuses to know what the messages mean.
"""

import multiprocessing
import pickle
import select
import socket
import time
import uuid
from contextlib import suppress
from typing import Any

from django_q import cluster

TASK_BYTES = 16 << 10
"""Room for tasks on their way to a worker: some ten, so that what waits does so in the database."""
RESULT_BYTES = 1 << 20
MOST_BYTES = 512 << 10
STARTS_EVERY = 0.1  # seconds


class PacketQueue:
    """What django-q2 uses of `multiprocessing.Queue`, between processes forked from one.

    `put` waits while `room` bytes are on their way. A message that a reader took before it died is
    lost with it, as any task is whose worker dies.
    """

    def __init__(self, room: int) -> None:
        self._end, self._start = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._start.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)

    def put(self, message: object) -> None:
        """Queue a message. Raises OSError when it is larger than the room."""
        self._start.sendall(pickle.dumps(message))

    def get(self) -> Any:  # Any: whatever was put
        """Wait for a message and take it."""
        return pickle.loads(self._end.recv(MOST_BYTES))  # noqa: S301 - only our forks can write

    def empty(self) -> bool:
        """Tell whether no message waits."""
        with suppress(ValueError):  # it was closed
            return not select.select([self._end], [], [], 0)[0]
        return True

    def qsize(self) -> int:
        """At least how many messages wait, 0 or 1: the kernel does not count packets."""
        return int(not self.empty())

    def close(self) -> None:
        """Nothing to do: what was put is with the kernel, and goes with the last process."""

    def join_thread(self) -> None:
        """Nothing to wait for: there is no thread."""


class Sentinel(cluster.Sentinel):  # type: ignore[misc] # django-q2 has no types
    """django-q2's keeper of the pool, on such queues."""

    def start(self) -> None:
        """Replace the queues before anyone has them, then start the pool and guard it."""
        self.task_queue = PacketQueue(TASK_BYTES)
        self.result_queue = PacketQueue(RESULT_BYTES)
        super().start()


class Cluster(cluster.Cluster):  # type: ignore[misc] # as above
    """django-q2's cluster, with that keeper."""

    def start(self) -> int:
        """Start the keeper in a process of its own and wait until the pool stands.

        Raises:
            RuntimeError: the keeper ended before that.
        """
        self.stop_event = multiprocessing.Event()
        self.start_event = multiprocessing.Event()
        self.sentinel = cluster.get_mp_context().Process(
            target=Sentinel,
            name=f"Process-{uuid.uuid4().hex}",
            args=(self.stop_event, self.start_event, self.cluster_id, self.broker, self.timeout),
        )
        self.sentinel.start()
        # A signal's handler sets it to None; it must not come in the middle of a wait().
        while self.start_event and not self.start_event.is_set():
            if not self.sentinel.is_alive():
                if self.sentinel.exitcode == 0:
                    break
                raise RuntimeError(f"the cluster's sentinel exited with {self.sentinel.exitcode}")
            time.sleep(STARTS_EVERY)
        return int(self.pid)
