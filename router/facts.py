"""What is known of an association: who sends, from where, how it went.

Plain values with their JSON form, shared by everything that receives. They refuse to do anything.
"""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, Self

Origin = Literal["dimse", "stow", "import", "upload", "retrieve", "ai"]
Duplicates = Literal["quarantine", "versions", "refuse"]


@dataclass(frozen=True, slots=True)
class AssociationFacts:
    """Who sends, from where and under which policy: what every object of one inbox shares."""

    id: str
    origin: Origin
    calling_ae: str
    called_ae: str
    remote_host: str
    remote_port: int
    source: str | None
    duplicates: Duplicates
    started_at: datetime
    secure: bool = False
    user: str | None = None

    def to_dict(self) -> dict[str, Any]:  # Any: JSON
        return {**asdict(self), "started_at": self.started_at.isoformat()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:  # Any: decoded JSON
        return cls(**{**data, "started_at": datetime.fromisoformat(data["started_at"])})

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls.from_dict(json.loads(text))


@dataclass(slots=True)
class Counts:
    """What one association brought so far. Written by its thread, read by anyone."""

    objects: int = 0
    bytes: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class EndFacts:
    """How an association ended."""

    ended_at: datetime
    reason: str
    objects: int
    bytes: int
    refused: int
