"""Who does something, and from where: passed explicitly by every entry point."""

from dataclasses import dataclass
from enum import StrEnum


class ActorKind(StrEnum):
    """What kind of principal acts."""

    USER = "user"
    TOKEN = "token"  # noqa: S105 - a kind, not a secret
    PEER = "peer"
    SYSTEM = "system"


@dataclass(frozen=True)
class Actor:
    """A principal with its address: a user, a token, a DICOM peer, or the system itself."""

    name: str
    kind: ActorKind = ActorKind.USER
    address: str = ""


SYSTEM = Actor("system", ActorKind.SYSTEM)
