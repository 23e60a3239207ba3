"""What every destination kind is made of: what goes in, what comes out, and the settings form.

An adapter gets settings and bytes and gives results; it knows no rows, decides no retry and records
nothing. It never raises for trouble on the network: trouble is a `Result`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Literal, Protocol, runtime_checkable

from router.destinations.form import DestinationForm
from router.destinations.outcomes import Outcome
from router.dicom.commitment import Report
from router.dicom.header import Header

Settings = Mapping[str, object]
"""The canonical, JSON-safe `cleaned_data` of a kind's form."""

Lane = Literal["transport", "configuration"]
"""Why a whole destination could not be used: it cannot be reached, or it refuses us for good."""

Presence = Literal["present", "absent", "different", "unknown"]
"""What a far end says of an object that it took before."""

STALL_SECONDS = 30.0
SLOWEST_BYTES_PER_SECOND = 64 * 1024


def allowance(size: int) -> float:
    """Seconds that one object of `size` bytes may take in all, however steadily it moves."""
    return 120.0 + size / SLOWEST_BYTES_PER_SECOND


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One object to send: a Part 10 file of ours and what the ledger knows of it.

    `sha256` and `size` are of the data set alone, which begins at `offset` of what `open` opens
    (a real file when the object is stored locally). `header` reads the indexed attributes only
    when asked. `group` is the same for the items that were first tried together, of a kind whose
    unit is the study; `study_id` is what our own page of the study goes by.
    """

    item_id: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    sha256: str
    size: int
    offset: int
    open: Callable[[], BinaryIO]
    header: Callable[[], Header]
    received_at: datetime
    source: str
    study_id: int = 0
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    modality: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one item. `detail` is a sentence for the screen, without patient data.

    `lane` is set when not this item but the destination as a whole failed: every item that was
    given and not yet answered carries it, so that delivery backs off (`transport`) or stops
    (`configuration`) the lane. `egress_sha256` is the hash of the data set bytes that left, whole
    and in `transfer_syntax`. `pause` is how many seconds the far end asks to be left alone.
    """

    item_id: int
    outcome: Outcome
    detail: str
    status: int | None = None
    egress_sha256: str | None = None
    bytes_sent: int = 0
    transfer_syntax: str | None = None
    warnings: tuple[str, ...] = ()
    lane: Lane | None = None
    pause: float = 0.0


def _nothing(_moved: int) -> None:
    return None


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Context:
    """What a sender is told by the one who runs it.

    `progress` is called with the number of bytes just moved (delivery renews its lease there; what
    it raises ends the sending). `stop` is asked between items: when true nothing more is begun.
    `abort` is asked between PDUs: when true the object in flight is broken off too. `stall` is the
    longest time without a byte accepted, `deadline` the longest time for an object of so many
    bytes. With `echo_first` the far end must answer a probe before the first object leaves (R21).
    `is_probe` says that it failed lately, and this is to show whether it is back.
    """

    progress: Callable[[int], None] = _nothing
    stop: Callable[[], bool] = _never
    abort: Callable[[], bool] = _never
    stall: float = STALL_SECONDS
    deadline: Callable[[int], float] = allowance
    echo_first: bool = False
    is_probe: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a verification: its name, whether it went well, and a sentence."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Verification:
    """The steps of a verification in order; the last is the one that failed, if any did."""

    steps: tuple[Step, ...]

    @property
    def ok(self) -> bool:
        """Whether every step went well."""
        return all(step.ok for step in self.steps)


class Sender(Protocol):
    """One destination, ready to be sent to."""

    def send(self, items: Sequence[Outgoing], context: Context) -> Iterator[Result]:
        """Send `items`, yielding exactly one result for each, as soon as it is known."""
        ...

    def verify(self) -> Verification:
        """Try the destination without sending an object to it."""
        ...


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What the far end says of one item that was delivered before; nothing is sent to ask it.

    `present`: it holds the object, as far as it can tell (`detail` says how that was seen).
    `absent`: it answers that it does not. `different`: it holds another object in its place.
    `unknown`: it could not be asked, or its answer says nothing. `detail` is a sentence for the
    screen, without patient data.
    """

    item_id: int
    state: Presence
    detail: str


@runtime_checkable
class Confirming(Protocol):
    """A sender that can ask the far end whether it still has what it took (grade `verified`)."""

    def confirm(self, items: Sequence[Outgoing], context: Context) -> Iterator[Confirmation]:
        """Ask for `items`, yielding exactly one answer for each; never raises for the network.

        An item is given as it left: its hash and transfer syntax are those of the bytes sent.
        """
        ...


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """One request for storage commitment: a Transaction UID of ours, and the objects it is for."""

    transaction_uid: str
    items: Sequence[Outgoing]


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of a request for commitment; whether it is given is reported later.

    `is_accepted`: the far end took the request. Without it, `status` is what it answered, if it
    did. `detail` is a sentence for the screen.
    """

    transaction_uid: str
    is_accepted: bool
    detail: str
    status: int | None = None


TakeReport = Callable[[Report], int]
"""Takes over a report that came on the association of the request, durably, and returns the status
to answer it with."""


@runtime_checkable
class Committing(Protocol):
    """A sender that can ask the far end to commit to what it took (grade `committed`)."""

    def commit(
        self, requests: Sequence[CommitRequest], context: Context, *, take: TakeReport
    ) -> Iterator[Asked]:
        """Make each request, yielding exactly one answer for each, then wait a while for reports.

        Never raises for the network. A report may come before the answer to its request.
        """
        ...


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of destination. `endpoint_fields` say where and who the far end is: a change of one
    holds the open items of the destination until an administrator releases them (R21). With the
    `unit` study, the items of one job are claimed together, and those tried together stay so."""

    name: str
    label: str
    form: type[DestinationForm]
    sender: Callable[[Settings], Sender]
    endpoint_fields: tuple[str, ...]
    unit: Literal["instance", "study"] = "instance"
