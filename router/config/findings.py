"""What is wrong with a configuration: findings with their line and path, raised all at once."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is wrong. `line` is 0 where no text stands behind the configuration."""

    line: int
    path: str
    message: str

    def __str__(self) -> str:
        line = f"line {self.line}: " if self.line else ""
        path = f"{self.path}: " if self.path else ""
        return f"{line}{path}{self.message}"


class ConfigError(Exception):
    """A configuration that is refused whole, with every finding in the order of the lines."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(sorted(set(findings)))
        super().__init__("\n".join(str(finding) for finding in self.findings))


def one_of(value: object, expected: Iterable[str]) -> str:
    """Return the sentence for a value that is none of `expected`."""
    return f"'{value}' is unknown; expected one of: {', '.join(expected)}"
