"""Signs of life of processes, as rows."""

import os
import socket
from datetime import timedelta

from router.models import Heartbeat
from router.services import clock

FRESH = timedelta(seconds=30)


def name(role: str) -> str:
    """Return the name of this process in its role; workers, and sweeps, of a host are as one."""
    if role in {"worker", "sweep"}:
        return f"{role}-{socket.gethostname()}"[:100]
    return f"{role}-{socket.gethostname()}-{os.getpid()}"[:100]


def beat(role: str, **facts: object) -> None:
    """Write that this process lives, with figures it wants to show."""
    Heartbeat.objects.update_or_create(
        name=name(role), defaults={"role": role, "at": clock.now(), "facts": facts}
    )


def end(role: str) -> None:
    """Say that this process has ended."""
    Heartbeat.objects.filter(name=name(role)).delete()


def is_alive(role: str, *, within: timedelta = FRESH) -> bool:
    """Tell whether any process of a role gave a sign of life lately."""
    return Heartbeat.objects.filter(role=role, at__gte=clock.now() - within).exists()
