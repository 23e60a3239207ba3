"""The kind `dicom`: objects leave by C-STORE to a storage SCP (PS3.4 Annex B).

Untouched objects leave byte for byte as they are stored. An uncompressed object that the peer
takes in another uncompressed transfer syntax only is re-encoded; pixels are never decoded here.
The stored hash is checked while sending: an object that does not match never leaves whole.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from django import forms
from django.conf import settings as project
from django.core.exceptions import ValidationError
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from router import dimse
from router.destinations.base import (
    Context,
    Kind,
    Lane,
    Outgoing,
    Result,
    Settings,
    Step,
    Verification,
)
from router.destinations.fields import DurationField, TextField, seconds
from router.destinations.form import DestinationForm
from router.destinations.outcomes import (
    Outcome,
    Overrides,
    classify,
    is_lasting,
    rejection_sentence,
    status_sentence,
)
from router.destinations.parcels import Ahead, Turn
from router.dicom import part10

HOST_LENGTH = 253
AE_TITLE_LENGTH = 16
PROBED_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.4",  # MR
    "1.2.840.10008.5.1.4.1.1.1.1",  # digital X-ray
    "1.2.840.10008.5.1.4.1.1.6.1",  # ultrasound
    "1.2.840.10008.5.1.4.1.1.7",  # secondary capture
    "1.2.840.10008.5.1.4.1.1.88.22",  # enhanced structured report
)
PROBED_SYNTAXES = (
    "1.2.840.10008.1.2.1",  # explicit VR little endian
    "1.2.840.10008.1.2",  # implicit VR little endian
    "1.2.840.10008.1.2.4.70",  # JPEG lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
)
UNCOMPRESSED = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")


class AETitleField(TextField):
    """An AE title (PS3.5 6.2, VR AE)."""

    def __init__(self, *, required: bool = True) -> None:
        super().__init__(max_length=AE_TITLE_LENGTH, required=required)

    def validate(self, value: object) -> None:
        """Refuse what is not of the default character repertoire."""
        super().validate(value)
        if not all(" " <= character <= "~" and character != "\\" for character in str(value)):
            raise ValidationError("An AE title is printable ASCII without a backslash.")


class HostField(TextField):
    """A host name or an address."""

    def validate(self, value: object) -> None:
        """Refuse what can be no host."""
        super().validate(value)
        if not all("!" <= character <= "~" for character in str(value)) or "/" in str(value):
            raise ValidationError("A host name or an address is expected.")


class DicomForm(DestinationForm):
    """The settings of a storage SCP. Without `calling_ae` we call ourselves by our own AE title."""

    host = HostField(max_length=HOST_LENGTH)
    port = forms.IntegerField(min_value=1, max_value=65535)
    ae_title = AETitleField()
    calling_ae = AETitleField(required=False)
    max_pdu = forms.IntegerField(min_value=4096, max_value=1 << 20, initial=131072, required=False)
    connect_timeout = DurationField(initial="10s", most="5m")
    response_timeout = DurationField(initial="60s", most="1h")


@dataclass(frozen=True, slots=True)
class _Halt:
    """Why the sending ended early: what every item gets that was not answered by then."""

    outcome: Outcome
    detail: str
    lane: Lane | None = None

    def result(self, item: Outgoing) -> Result:
        return Result(item.item_id, self.outcome, self.detail, lane=self.lane)


_STOPPED = _Halt(Outcome.NOT_SENT, "The sending was stopped on our side before this object.")


class DicomSender:
    """One storage SCP, ready to be sent to."""

    def __init__(self, settings: Settings) -> None:
        self._peer = _peer(settings)
        self._name = f"{self._peer.ae_title} at {self._peer.host}:{self._peer.port}"
        self._overrides = cast(Overrides, settings.get("outcomes") or {})  # JSON has no types

    def send(self, items: Sequence[Outgoing], context: Context) -> Iterator[Result]:
        """Send `items` over as few associations as their contexts allow, one after the other."""
        pace = dimse.Pace(context.progress, context.abort, context.stall, context.deadline)
        halt = self._probe(pace) if context.echo_first else None
        for plan in dimse.plan(_key(item) for item in items):
            batch = [item for item in items if _key(item) in plan.keys]
            if halt is None:
                halt = yield from self._over_one(batch, plan, pace, stop=context.stop)
            else:
                yield from (halt.result(item) for item in batch)

    def verify(self) -> Verification:
        """Connect, associate and echo, and say which contexts are accepted."""
        proposals = _probing()
        pace = dimse.Pace()
        try:
            association = dimse.associate(self._peer, proposals, pace=pace)
        except dimse.Unreachable as error:
            return Verification((Step("connection", ok=False, detail=self._trouble(error)),))
        except dimse.DimseError as error:
            halt = self._refusal(error)
            return Verification(
                (self._connected(), Step("association", ok=False, detail=halt.detail))
            )
        with association:
            steps = [self._connected(), self._associated(association), self._echoed(association)]
        steps.append(_contexts(association.contexts, proposals))
        return Verification(tuple(steps))

    def _over_one(
        self,
        items: Sequence[Outgoing],
        plan: dimse.Plan,
        pace: dimse.Pace,
        *,
        stop: Callable[[], bool],
    ) -> Generator[Result, None, _Halt | None]:
        """Send `items` over one association; return why no further one may follow."""
        waiting = iter(items)
        halt: _Halt | None = None
        try:
            association = dimse.associate(self._peer, plan.proposals, pace=pace)
        except dimse.DimseError as error:
            halt = self._refusal(error)
        else:
            following = iter([*items[1:], None])
            with association, Ahead(association) as ahead:
                while halt is None and (item := next(waiting, None)) is not None:
                    if stop():
                        halt = _STOPPED
                        yield halt.result(item)
                        break
                    turn = Turn(association, plan, ahead, next(following))
                    result, halt = self._one(turn, item)
                    if _is_odd(item, result):
                        result = self._again_padded(plan, item, pace) or result
                    yield result
        if halt is not None:
            yield from (halt.result(item) for item in waiting)
        return halt

    def _again_padded(self, plan: dimse.Plan, item: Outgoing, pace: dimse.Pace) -> Result | None:
        """Some peers abort at a data set of odd length. A deflated one may end with a zero byte
        (PS3.5 A.5), so it is sent once more with that; return None when that was not answered
        either."""
        try:
            with dimse.associate(self._peer, plan.proposals, pace=pace) as association:
                result, _ = self._one(Turn(association, plan), item)
        except dimse.DimseError:
            return None
        if result.status is None:
            return None
        detail = f"{result.detail} {self._name} took it with a padding byte only."
        return replace(result, detail=detail, warnings=(*result.warnings, detail))

    def _one(self, turn: Turn, item: Outgoing) -> tuple[Result, _Halt | None]:
        """Send one item; return its result, and a halt when the association did not survive."""
        association, context = turn.association, turn.context(item)
        if context is None:
            return Result(item.item_id, Outcome.DATA_ERROR, self._no_context(item)), None
        failure: dimse.DimseError | None = None
        try:
            with turn.parcel(item, *context) as packed:
                sent = association.store(packed, meanwhile=turn.look_ahead)
            failure = sent.failure
            result = self._judge(
                item, sent, transfer_syntax=context[1], answered=association.answered
            )
        except dimse.Damaged as error:
            detail = f"The stored object was not delivered: {error}."
            result = Result(item.item_id, Outcome.DATA_ERROR, detail)
        except dimse.Unreadable as error:
            detail = f"The stored object cannot be read at the moment: {error}."
            result = Result(item.item_id, Outcome.RETRY, detail)
        return result, None if association.is_open else _after(failure)

    def _judge(
        self, item: Outgoing, sent: dimse.Sent, *, transfer_syntax: str, answered: int
    ) -> Result:
        outcome, detail, status = self._verdict(sent, answered)
        if transfer_syntax != item.transfer_syntax and outcome in _ARRIVED:
            detail += f" It was re-encoded in {UID(transfer_syntax).name}."
        return Result(
            item.item_id,
            outcome,
            detail,
            status=status,
            egress_sha256=sent.egress_sha256,
            bytes_sent=sent.bytes_sent,
            transfer_syntax=transfer_syntax,
            warnings=(detail,) if outcome == Outcome.WARNING else (),
        )

    def _verdict(self, sent: dimse.Sent, answered: int) -> tuple[Outcome, str, int | None]:
        if sent.response is not None:
            status, offending = sent.response.status, sent.response.offending
            detail = status_sentence(status, peer=self._name, offending=offending)
            return classify(status, self._overrides), detail, status
        cause = self._trouble(cast(dimse.DimseError, sent.failure))  # one of the two is there
        if sent.complete:
            detail = f"{cause} All of the object had left; whether it arrived is not known."
            return Outcome.UNKNOWN, detail, None
        # A peer that ends the association between two objects costs the second no attempt; one that
        # does so before the first would never cost any.
        spared = isinstance(sent.failure, dimse.Stopped) or (not sent.begun and answered > 0)
        if spared:
            return Outcome.NOT_SENT, f"{cause} The object had not left whole.", None
        return Outcome.RETRY, f"{cause} The object had not left whole.", None

    def _probe(self, pace: dimse.Pace) -> _Halt | None:
        """Echo before the first object (R21); return why it may not leave."""
        try:
            with dimse.associate(self._peer, _probing()[:1], pace=pace) as association:
                if not association.contexts:
                    detail = (
                        f"{self._name} refuses C-ECHO, which must pass before the first object."
                    )
                    return _Halt(Outcome.CONFIGURATION, detail, "configuration")
                status = association.echo(1).status
        except dimse.DimseError as error:
            return self._refusal(error)
        if status == 0:
            return None
        return _Halt(Outcome.NOT_SENT, status_sentence(status, peer=self._name), "transport")

    def _refusal(self, error: dimse.DimseError) -> _Halt:
        """Return what an association that did not come about means for every item."""
        if isinstance(error, dimse.Stopped):
            return _STOPPED
        if not isinstance(error, dimse.Rejected):
            return _Halt(Outcome.NOT_SENT, self._trouble(error), "transport")
        numbers = error.result, error.source, error.reason
        detail = rejection_sentence(
            *numbers, peer=self._name, calling=self._peer.calling_ae, called=self._peer.ae_title
        )
        if is_lasting(*numbers):
            return _Halt(Outcome.CONFIGURATION, detail, "configuration")
        return _Halt(Outcome.NOT_SENT, detail, "transport")

    def _trouble(self, error: dimse.DimseError) -> str:
        return f"{self._name}: {error}."

    def _no_context(self, item: Outgoing) -> str:
        return (
            f"{self._name} accepted no presentation context for SOP class "
            f"{_named(item.sop_class_uid)} in transfer syntax {_named(item.transfer_syntax)}."
        )

    def _connected(self) -> Step:
        where = f"{self._peer.host}:{self._peer.port}"
        return Step("connection", ok=True, detail=f"{where} accepts connections.")

    def _associated(self, association: dimse.Association) -> Step:
        detail = f"{self._name} accepts associations from {self._peer.calling_ae}"
        most = association.most_pdu
        return Step("association", ok=True, detail=f"{detail}, with PDUs of {most} bytes.")

    def _echoed(self, association: dimse.Association) -> Step:
        if 1 not in association.contexts:
            return Step("echo", ok=False, detail=f"{self._name} refuses C-ECHO.")
        try:
            status = association.echo(1).status
        except dimse.DimseError as error:
            return Step("echo", ok=False, detail=self._trouble(error))
        return Step("echo", ok=status == 0, detail=status_sentence(status, peer=self._name))


_ARRIVED = frozenset({Outcome.DELIVERED, Outcome.WARNING})


def _after(failure: dimse.DimseError | None) -> _Halt:
    """Return what the items get whose association ended before their turn: no attempt is lost, and
    only a peer that stopped moving is a reason to leave it alone for a while."""
    if isinstance(failure, dimse.Stopped):
        return _STOPPED
    lane: Lane | None = "transport" if isinstance(failure, dimse.Stalled) else None
    cause = f": {failure}" if failure else ""
    return _Halt(Outcome.NOT_SENT, f"The association ended before this object's turn{cause}.", lane)


def _peer(settings: Settings) -> dimse.Peer:
    return dimse.Peer(
        host=str(settings["host"]),
        port=int(str(settings["port"])),
        ae_title=str(settings["ae_title"]),
        calling_ae=str(settings.get("calling_ae") or project.AE_TITLE),
        implementation=(part10.IMPLEMENTATION_CLASS_UID, part10.IMPLEMENTATION_VERSION_NAME),
        connect_timeout=seconds(str(settings["connect_timeout"])),
        response_timeout=seconds(str(settings["response_timeout"])),
        most_pdu=int(str(settings["max_pdu"])),
    )


def _key(item: Outgoing) -> tuple[str, str]:
    return item.sop_class_uid, item.transfer_syntax


def _is_odd(item: Outgoing, result: Result) -> bool:
    """Whether the item left as a deflated data set of odd length, without an answer."""
    is_deflated = result.transfer_syntax == item.transfer_syntax == DeflatedExplicitVRLittleEndian
    return is_deflated and item.size % 2 == 1 and result.outcome == Outcome.UNKNOWN


def _named(uid: str) -> str:
    name = UID(uid).name
    return uid if name == uid else f"{name} ({uid})"


def _probing() -> list[dimse.Proposal]:
    pairs: list[tuple[str, tuple[str, ...]]] = [(dimse.VERIFICATION, UNCOMPRESSED)]
    pairs += [(uid, (syntax,)) for uid in PROBED_CLASSES for syntax in PROBED_SYNTAXES]
    return [dimse.Proposal(2 * at + 1, *pair) for at, pair in enumerate(pairs)]


def _contexts(accepted: Mapping[int, str], proposals: Sequence[dimse.Proposal]) -> Step:
    """Say which of the usual storage contexts are accepted."""
    taken: dict[str, list[str]] = {}
    for proposal in proposals[1:]:
        if proposal.context_id in accepted:
            names = taken.setdefault(UID(proposal.abstract_syntax).name, [])
            names.append(UID(accepted[proposal.context_id]).name)
    listed = "; ".join(f"{name}: {', '.join(syntaxes)}" for name, syntaxes in taken.items())
    detail = f"Accepted are {listed}." if taken else "No usual storage SOP class is accepted."
    return Step("contexts", ok=bool(taken), detail=detail)


KIND = Kind(
    name="dicom",
    label="DICOM node",
    form=DicomForm,
    sender=DicomSender,
    endpoint_fields=("host", "port", "ae_title"),
)
