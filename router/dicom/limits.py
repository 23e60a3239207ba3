"""How much of an object is looked at. Values only; requirement R31 sets the defaults."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds in bytes, elements and levels; the defaults are the product's."""

    depth: int = 64
    elements: int = 200_000
    fragments: int = 2_000_000
    value_bytes: int = 1 << 16
    sequence_bytes: int = 1 << 20
    header_bytes: int = 16 << 20
    inflated_bytes: int = 256 << 20
    inflated_ratio: int = 100
    inflated_bytes_hard: int = 2 << 30
