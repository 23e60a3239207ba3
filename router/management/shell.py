"""Who types a command: the account of the operating system, as an actor for the audit log."""

import os
import pwd

from router.services.actors import Actor, ActorKind


def actor() -> Actor:
    """Return the account this process runs as; its number where it has no name."""
    number = os.getuid()
    try:
        name = pwd.getpwuid(number).pw_name
    except KeyError:
        name = f"uid {number}"
    return Actor(name, ActorKind.SYSTEM)
