"""Asking a peer for storage commitment, as a user of the Push Model (PS3.4 Annex J).

One N-ACTION a request, over one association, where the peer may report: after each request that is
awaited for a while, so that the next does not cross it. A peer that was awaited in vain will report
later, over an association of its own, which the receiver takes, and is not awaited again. What a
report says is not looked at here.
"""

from collections.abc import Callable, Generator, Iterator, Sequence

from router import dimse
from router.destinations.base import Asked, CommitRequest, TakeReport
from router.destinations.dicom_peer import Far
from router.destinations.outcomes import status_sentence
from router.dicom import commitment
from router.dicom.syntaxes import TARGETS

CONTEXT = 1
PROPOSALS = (dimse.Proposal(CONTEXT, commitment.SOP_CLASS, TARGETS),)

Words = Callable[[dimse.DimseError], str]


class Ask:
    """Requests to one peer. `outstanding` are the transactions that it took and did not report."""

    def __init__(
        self,
        far: Far,
        pace: dimse.Pace,
        *,
        stop: Callable[[], bool],
        refusal: Words,
        take: TakeReport,
    ) -> None:
        self._far, self._pace, self._stop = far, pace, stop
        self._refusal, self._take = refusal, take
        self._outstanding: set[str] = set()
        self._syntax, self._reports_here = "", True

    def about(self, requests: Sequence[CommitRequest], *, wait: float) -> Iterator[Asked]:
        """Make `requests`, and wait for the report on each, at most `wait` seconds."""
        waiting, reason = list(requests), ""
        try:
            while waiting and not reason:
                reason = yield from self._over_one(waiting, wait)
        except dimse.DimseError as error:
            reason = self._refusal(error)
        yield from (Asked(one.transaction_uid, is_accepted=False, detail=reason) for one in waiting)

    def _over_one(self, waiting: list[CommitRequest], wait: float) -> Generator[Asked, None, str]:
        """Make requests over one association, which the peer may end after any of them; return why
        no further one may be made, if there is a reason."""
        with dimse.associate(self._far.peer, PROPOSALS, pace=self._pace) as association:
            self._syntax = association.contexts.get(CONTEXT, "")
            if not self._syntax:
                return f"{self._far.name} offers no storage commitment."
            count = len(waiting)
            while waiting and association.is_open:
                if self._stop():
                    return "The asking was stopped on our side."
                try:
                    answer = self._ask(association, waiting[0])
                except (dimse.Lost, dimse.Released, dimse.Aborted):
                    if len(waiting) == count:
                        raise
                    return ""  # it ended between two requests; the second goes over another
                del waiting[0]
                yield answer
                self._attend(association, wait)
        return ""

    def _ask(self, association: dimse.Association, asked: CommitRequest) -> Asked:
        uid = asked.transaction_uid
        references = [(item.sop_class_uid, item.sop_instance_uid) for item in asked.items]
        self._outstanding.add(uid)
        response = dimse.act(
            association,
            CONTEXT,
            commitment.request(uid, references, transfer_syntax=self._syntax),
            sop_class_uid=commitment.SOP_CLASS,
            sop_instance_uid=commitment.SOP_INSTANCE,
            type_id=commitment.REQUEST,
            take=self._event,
        )
        if response.status == 0:
            detail = f"{self._far.name} took the request for storage commitment."
            return Asked(uid, is_accepted=True, detail=detail, status=0)
        self._outstanding.discard(uid)
        detail = status_sentence(response.status, peer=self._far.name, offending=response.offending)
        detail = f"Storage commitment was refused: {detail}"
        return Asked(uid, is_accepted=False, detail=detail, status=response.status)

    def _attend(self, association: dimse.Association, wait: float) -> None:
        if self._reports_here and self._outstanding:
            dimse.attend(
                association,
                CONTEXT,
                take=self._event,
                is_done=lambda: not self._outstanding or self._stop(),
                seconds=wait,
            )
            self._reports_here = not self._outstanding

    def _event(self, event: dimse.Event) -> int:
        """Hand over a report, and return the status to answer it with."""
        try:
            report = commitment.read_event(
                event.data,
                transfer_syntax=self._syntax,
                sop_instance_uid=event.sop_instance_uid,
                type_id=event.type_id,
            )
        except commitment.RefusedEvent as refused:
            return refused.status
        status = self._take(report)
        self._outstanding.discard(report.transaction_uid)
        return status
