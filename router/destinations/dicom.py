"""The kind `dicom`: objects leave by C-STORE to a storage SCP (PS3.4 Annex B).

Untouched objects leave byte for byte as they are stored. One that the peer, or the destination's
settings, want in another transfer syntax is re-encoded; pixels are decoded in the sandbox only, and
only where `transfer_syntax` asks for it. The stored hash is checked while sending: an object that
does not match never leaves whole.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from router import dimse, sandbox
from router.destinations import dicom_commit, dicom_confirm, dicom_verify, grades
from router.destinations.base import (
    Asked,
    CommitRequest,
    Confirmation,
    Context,
    Kind,
    Lane,
    Outgoing,
    Result,
    Settings,
    TakeReport,
    Verification,
)
from router.destinations.dicom_form import DicomForm
from router.destinations.dicom_peer import Far, allows
from router.destinations.fields import seconds
from router.destinations.outcomes import (
    Outcome,
    Overrides,
    classify,
    is_lasting,
    rejection_sentence,
    status_sentence,
)
from router.destinations.parcels import Ahead, Turn
from router.destinations.trials import Offer, Rehearsed
from router.dicom.syntaxes import DECODABLE


@dataclass(frozen=True, slots=True)
class _Halt:
    """Why the sending ended early: what every item gets that was not answered by then."""

    outcome: Outcome
    detail: str
    lane: Lane | None = None

    def result(self, item: Outgoing) -> Result:
        return Result(item.item_id, self.outcome, self.detail, lane=self.lane)


_STOPPED = _Halt(Outcome.NOT_SENT, "The sending was stopped on our side before this object.")
_NO_TURN = "The association ended before this object's turn"

MOST_CUTS = 3
"""So many objects in a row may be cut off, each for what may be its own fault. Then it is the
peer's."""


@dataclass
class _Cuts:
    """How many objects in a row the peer has cut off, and how many it may."""

    most: int
    count: int = 0


class DicomSender:
    """One storage SCP, ready to be sent to."""

    def __init__(self, settings: Settings) -> None:
        self._far = Far.of(settings)
        self._name = self._far.name
        self._overrides = cast(Overrides, settings.get("outcomes") or {})  # JSON has no types
        self._settings = settings

    def send(self, items: Sequence[Outgoing], context: Context) -> Iterator[Result]:
        """Send `items` over as few associations as their contexts allow, one after the other."""
        pace = dimse.Pace(context.progress, context.abort, context.stall, context.deadline)
        leaving = yield from self._sift(items)
        halt = self._probe(pace) if context.echo_first and leaving else None
        cuts = _Cuts(1 if context.is_probe else MOST_CUTS)
        for plan in dimse.plan((_key(item) for item in leaving), self._far.preference):
            waiting = deque(item for item in leaving if _key(item) in plan.keys)
            while waiting and halt is None:
                halt = yield from self._over_one(waiting, plan, pace, cuts=cuts, stop=context.stop)
            if halt is not None:
                yield from (halt.result(item) for item in waiting)

    def verify(self) -> Verification:
        """Connect, associate and echo, and say which contexts are accepted."""
        grade = grades.required(self._settings)
        return dicom_verify.verify(self._far, refusal=self._sentence, grade=grade)

    def send_test(self) -> Verification:
        """Verify, and store a synthetic object there."""
        return dicom_verify.send_test(self._far, refusal=self._sentence)

    def rehearse(self, offers: Sequence[Offer]) -> Rehearsed:
        """Propose what was seen lately and say what the peer would refuse (D11)."""
        return dicom_verify.rehearse(
            self._far,
            offers,
            refusal=self._sentence,
            is_excluded=lambda uid: not allows(self._settings, uid),
        )

    def confirm(self, items: Sequence[Outgoing], context: Context) -> Iterator[Confirmation]:
        """Ask by C-FIND whether the peer has `items`."""
        pace = dimse.Pace(context.progress, context.abort, context.stall)
        return dicom_confirm.confirm(
            self._far, items, pace=pace, stop=context.stop, refusal=self._sentence
        )

    def commit(
        self, requests: Sequence[CommitRequest], context: Context, *, take: TakeReport
    ) -> Iterator[Asked]:
        """Ask for storage commitment, one N-ACTION a request."""
        pace = dimse.Pace(context.progress, context.abort, context.stall)
        ask = dicom_commit.Ask(
            self._far, pace, stop=context.stop, refusal=self._sentence, take=take
        )
        return ask.about(requests, wait=seconds(str(self._settings["commit_wait"])))

    def _sift(self, items: Sequence[Outgoing]) -> Generator[Result, None, list[Outgoing]]:
        """Answer for what must not leave, or cannot; return the others."""
        leaving: list[Outgoing] = []
        for item in items:
            if not allows(self._settings, item.sop_class_uid):
                detail = (
                    f"Excluded: {_named(item.sop_class_uid)} is not sent to {self._name} "
                    "(sop_classes)."
                )
                yield Result(item.item_id, Outcome.EXCLUDED, detail)
            elif not self._far.preference.ways(item.transfer_syntax):
                detail = (
                    f"{_named(item.transfer_syntax)} cannot be turned into a transfer syntax that "
                    f"{self._name} is to get (transfer_syntax)."
                )
                yield Result(item.item_id, Outcome.DATA_ERROR, detail)
            else:
                leaving.append(item)
        return leaving

    def _over_one(
        self,
        waiting: deque[Outgoing],
        plan: dimse.Plan,
        pace: dimse.Pace,
        *,
        cuts: _Cuts,
        stop: Callable[[], bool],
    ) -> Generator[Result, None, _Halt | None]:
        """Send what is `waiting` over one association, for as long as that lasts; return why no
        further one may follow."""
        try:
            association = dimse.associate(self._far.peer, plan.proposals, pace=pace)
        except dimse.DimseError as error:
            return self._refusal(error)
        with association:
            yield from self._refuse_classes(waiting, Turn(association, plan, self._far.preference))
            return (
                yield from self._in_turn(
                    waiting, association, plan, pace=pace, cuts=cuts, stop=stop
                )
            )

    def _refuse_classes(self, waiting: deque[Outgoing], turn: Turn) -> Iterator[Result]:
        """Answer at once for every object of a class that the peer takes no context for (C11), and
        keep the others waiting."""
        for _ in range(len(waiting)):
            item = waiting.popleft()
            if turn.context(item) is None:
                yield Result(item.item_id, Outcome.DATA_ERROR, self._no_context(item))
            else:
                waiting.append(item)

    def _in_turn(
        self,
        waiting: deque[Outgoing],
        association: dimse.Association,
        plan: dimse.Plan,
        *,
        pace: dimse.Pace,
        cuts: _Cuts,
        stop: Callable[[], bool],
    ) -> Generator[Result, None, _Halt | None]:
        """Send what is `waiting` until the association ends; return why no other may follow."""
        with Ahead(association, pace.stop) as ahead:
            while waiting and association.is_open:
                if stop():
                    return _STOPPED
                item, following = waiting[0], waiting[1] if len(waiting) > 1 else None
                turn = Turn(association, plan, self._far.preference, ahead, following)
                result, failure = self._one(turn, item)
                if _is_odd(item, result):
                    result = self._again_padded(plan, item, pace) or result
                if result.outcome == Outcome.NOT_SENT and not isinstance(failure, dimse.Stopped):
                    return None  # it ended between two objects; this one leaves over another
                waiting.popleft()
                halt = self._after(result, failure, cuts)
                yield replace(result, lane=halt.lane) if halt else result
                if halt is not None:
                    return halt
        return None

    def _after(self, result: Result, failure: dimse.DimseError | None, cuts: _Cuts) -> _Halt | None:
        """Return why no other association may follow the one that ended with `failure`: we are to
        stop, or the peer is to be left alone, because it stopped moving or always ends them."""
        if isinstance(failure, dimse.Stopped):
            return _STOPPED
        if isinstance(failure, dimse.Stalled):
            return _Halt(Outcome.NOT_SENT, f"{_NO_TURN}: {failure}.", "transport")
        if failure is not None or result.status is not None:
            cuts.count = 0 if result.status is not None else cuts.count + 1
        if cuts.count < cuts.most:
            return None
        detail = f"{self._name} answered none of {cuts.count} in a row, the last time {failure}"
        return _Halt(Outcome.NOT_SENT, f"{_NO_TURN}: {detail}.", "transport")

    def _again_padded(self, plan: dimse.Plan, item: Outgoing, pace: dimse.Pace) -> Result | None:
        """Some peers abort at a data set of odd length. A deflated one may end with a zero byte
        (PS3.5 A.5), so it is sent once more with that; return None when that was not answered
        either."""
        try:
            with dimse.associate(self._far.peer, plan.proposals, pace=pace) as association:
                result, _ = self._one(Turn(association, plan), item)
        except dimse.DimseError:
            return None
        if result.status is None:
            return None
        detail = f"{result.detail} {self._name} took it with a padding byte only."
        return replace(result, detail=detail, warnings=(*result.warnings, detail))

    def _one(self, turn: Turn, item: Outgoing) -> tuple[Result, dimse.DimseError | None]:
        """Send one item; return its result, and what ended the association, if anything did."""
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
        except sandbox.Abandoned:
            return _STOPPED.result(item), dimse.Stopped()
        return result, failure

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
            with dimse.associate(self._far.peer, dicom_verify.ECHO, pace=pace) as association:
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
        if isinstance(error, dimse.Untrusted):
            return _Halt(Outcome.CONFIGURATION, self._trouble(error), "configuration")
        if not isinstance(error, dimse.Rejected):
            return _Halt(Outcome.NOT_SENT, self._trouble(error), "transport")
        numbers = error.result, error.source, error.reason
        detail = rejection_sentence(
            *numbers,
            peer=self._name,
            calling=self._far.peer.calling_ae,
            called=self._far.peer.ae_title,
        )
        if is_lasting(*numbers):
            return _Halt(Outcome.CONFIGURATION, detail, "configuration")
        return _Halt(Outcome.NOT_SENT, detail, "transport")

    def _sentence(self, error: dimse.DimseError) -> str:
        return self._refusal(error).detail

    def _trouble(self, error: dimse.DimseError) -> str:
        return f"{self._name}: {error}."

    def _no_context(self, item: Outgoing) -> str:
        sentence = (
            f"{self._name} accepted no presentation context for SOP class "
            f"{_named(item.sop_class_uid)} in transfer syntax {_named(item.transfer_syntax)}."
        )
        if not self._far.preference.syntaxes and item.transfer_syntax in DECODABLE:
            sentence += " With transfer_syntax: uncompressed it would be decoded for it."
        return sentence


_ARRIVED = frozenset({Outcome.DELIVERED, Outcome.WARNING})


def _key(item: Outgoing) -> tuple[str, str]:
    return item.sop_class_uid, item.transfer_syntax


def _is_odd(item: Outgoing, result: Result) -> bool:
    """Whether the item left as a deflated data set of odd length, without an answer."""
    is_deflated = result.transfer_syntax == item.transfer_syntax == DeflatedExplicitVRLittleEndian
    return is_deflated and item.size % 2 == 1 and result.outcome == Outcome.UNKNOWN


def _named(uid: str) -> str:
    name = UID(uid).name
    return uid if name == uid else f"{name} ({uid})"


KIND = Kind(
    name="dicom",
    label="DICOM node",
    form=DicomForm,
    sender=DicomSender,
    endpoint_fields=(
        *("host", "port", "ae_title"),
        *("tls", "tls_ca", "tls_server_name", "tls_pin", "tls_verify"),
    ),
)
