"""The errors of the pure core: what was wrong and where. It logs and decides nothing."""


class DicomError(Exception):
    """Base of everything the core raises on purpose."""


class MalformedDataSet(DicomError):
    """Bytes that are not a data set as PS3.5 section 7 draws it.

    `offset` counts from the start of the data set, for a file from that of the file.
    """

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(offset, reason)
        self.offset = offset
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason} (at byte {self.offset})"


class TruncatedDataSet(MalformedDataSet):
    """The data ends before what it announced."""


class DeflateBomb(MalformedDataSet):
    """A deflated data set that grows beyond the limits when inflated."""


class RuleError(DicomError):
    """A rule or a layout that cannot be understood; `path` leads into the tree that was given."""

    def __init__(self, path: tuple[str | int, ...], message: str, expected: str = "") -> None:
        super().__init__(path, message, expected)
        self.path = path
        self.message = message
        self.expected = expected

    def __str__(self) -> str:
        where = ".".join(str(step) for step in self.path)
        text = f"{where}: {self.message}" if where else self.message
        return f"{text}; expected {self.expected}" if self.expected else text
