"""An archive that commits to what it has: storage commitment as the far end does it.

What it is told to drop it answers with success and does not keep. It tells the truth when it is
asked for commitment; its report goes over the association of the request, before the answer to it
or after, or over one of its own, or is never made.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StorageCommitmentPushModel

from tests.archives import Archive
from tests.product import AE_TITLE, HOST
from tests.sinks import Script, Stored

WELL_KNOWN = "1.2.840.10008.1.20.1.1"
UNCOMPRESSED = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]
NAME = "ARCHIVE"
Way = Literal["same", "early", "new", "never", "dies"]


@dataclass
class Manner:
    """How an archive behaves. `drops` is asked of each object's number, from 1 on.

    `way` is how a report is made, after `delay`; `router` is where an association of its own goes,
    which calls us `called`, and proposes the role of an SCP with `with_role`. `reason` is the
    Failure Reason it gives; `action_status` answers every request.
    """

    drops: Callable[[int], bool] = lambda _number: False
    way: Way = "same"
    router: tuple[str, int] = (HOST, 0)
    called: str = AE_TITLE
    with_role: bool = True
    delay: float = 0.0
    reason: int = 0x0112
    action_status: int = 0x0000
    commits: bool = True


@dataclass(frozen=True)
class Request:
    """A request for commitment as it came."""

    transaction_uid: str
    references: tuple[tuple[str, str], ...]


class Committer(Archive):
    """Such an archive: `with Committer(Manner(...)) as archive: ... archive.requests`."""

    def __init__(
        self, manner: Manner | None = None, *, port: int = 0, ae_title: str = NAME
    ) -> None:
        super().__init__(Script(ae_title=ae_title, keep_data=False))
        self.manner, self.port = manner or Manner(), port
        self.received: list[str] = []
        self.dropped: list[str] = []
        self.requests: list[Request] = []
        self.answers: list[int | None] = []

    def die(self) -> None:
        """Be gone at once: no listener, no association."""
        self.__exit__(None, None, None)
        for assoc in self._server.active_associations:
            assoc.abort()

    def _handlers(self) -> list[Any]:
        return [*super()._handlers(), (evt.EVT_N_ACTION, self._on_action)]

    def _contexts(self) -> list[Any]:
        more = [build_context(StorageCommitmentPushModel, UNCOMPRESSED)]
        return [*super()._contexts(), *(more if self.manner.commits else [])]

    def _on_store(self, event: evt.Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        with self._lock:
            self.received.append(uid)
            if self.manner.drops(len(self.received)):
                self.dropped.append(uid)
                return 0x0000
        return super()._on_store(event)

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        request = _read(event.action_information)
        with self._lock:
            self.requests.append(request)
        if self.manner.action_status:
            return self.manner.action_status, None
        if self.manner.way == "early":
            event.assoc._is_paused = True  # we are its reactor
            self._say(event.assoc, request)
        elif self.manner.way == "same":
            threading.Thread(target=self._report_there, args=(event.assoc, request)).start()
        elif self.manner.way == "new":
            threading.Thread(target=self.report, args=(request,)).start()
        elif self.manner.way == "dies":
            threading.Thread(target=self.die).start()
        return 0x0000, None

    def _report_there(self, assoc: Any, request: Request) -> None:
        time.sleep(0.05 + self.manner.delay)
        if assoc.is_established:
            self._say(assoc, request)

    def report(self, request: Request) -> None:
        """Report on a request over an association of our own; its answer, or None, is kept."""
        time.sleep(self.manner.delay)
        ae = AE(ae_title=self.script.ae_title)
        ae.add_requested_context(StorageCommitmentPushModel, UNCOMPRESSED)
        roles = [build_role(StorageCommitmentPushModel, scp_role=True)]
        ext_neg = roles if self.manner.with_role else []
        assoc = ae.associate(*self.manner.router, ae_title=self.manner.called, ext_neg=ext_neg)
        if assoc.is_established and assoc.accepted_contexts:
            self._say(assoc, request)
        else:
            self.answers.append(None)
        if assoc.is_established:
            assoc.release()

    def _say(self, assoc: Any, request: Request) -> None:
        kind, information = self.information(request)
        status, _reply = assoc.send_n_event_report(
            information, kind, StorageCommitmentPushModel, WELL_KNOWN
        )
        self.answers.append(status.Status if status else None)

    def information(self, request: Request) -> tuple[int, Dataset]:
        """The event's type and the truth about the objects of a request."""
        has = {(one.sop_class_uid, one.sop_instance_uid) for one in self.objects}
        ds = Dataset()
        ds.TransactionUID = request.transaction_uid
        ds.ReferencedSOPSequence = [_item(*one) for one in request.references if one in has]
        gone = [_item(*one) for one in request.references if one not in has]
        for item in gone:
            item.FailureReason = self.manner.reason
        if gone:
            ds.FailedSOPSequence = gone
        return (2 if gone else 1), ds

    def inherit(self, other: Archive) -> None:
        """Have what another has."""
        self.objects: list[Stored] = [*other.objects]


def _read(asked: Dataset) -> Request:
    references = tuple(
        (str(one.ReferencedSOPClassUID), str(one.ReferencedSOPInstanceUID))
        for one in asked.ReferencedSOPSequence
    )
    return Request(str(asked.TransactionUID), references)


def _item(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item
