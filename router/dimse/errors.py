"""What can go wrong between us and a peer, as the peer's behaviour, not as Python's.

Each error's text is a clause that can stand in a sentence for the screen. None carries patient
data, and none decides whether to try again.
"""


class DimseError(Exception):
    """The association is over, or never began."""


class Unreachable(DimseError):
    """No TCP connection could be made."""


class Untrusted(DimseError):
    """TLS did not come about: one side does not trust the other, or they share no way to speak it
    (PS3.15 B.12)."""


class Rejected(DimseError):
    """A-ASSOCIATE-RJ (PS3.8 9.3.4) with its three numbers."""

    def __init__(self, result: int, source: int, reason: int) -> None:
        super().__init__(f"the association was rejected ({result}/{source}/{reason})")
        self.result, self.source, self.reason = result, source, reason


class Aborted(DimseError):
    """A-ABORT by the peer (PS3.8 9.3.8)."""

    def __init__(self, source: int, reason: int) -> None:
        super().__init__(f"the peer aborted the association (A-ABORT {source}/{reason})")


class Released(DimseError):
    """The peer released the association while we still had something to send."""

    def __init__(self) -> None:
        super().__init__("the peer released the association")


class Lost(DimseError):
    """The connection was closed or reset without a word."""


class Stalled(DimseError):
    """Nothing moved, or no answer came, for longer than agreed; or the object took too long in
    all."""


class Malformed(DimseError):
    """The peer sent what is no DICOM, or not what the Standard allows at that point."""


class Stopped(DimseError):
    """We were asked to stop."""

    def __init__(self) -> None:
        super().__init__("the sending was stopped on our side")
