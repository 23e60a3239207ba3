"""What is asked of an origin server: whether it is there, and whether it has an object.

QIDO-RS (PS3.18 10.6), the capabilities (8.9) and WADO-RS (10.4). An object counts as the same when
the data set that comes back has the same bytes in the same transfer syntax.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import httpx

from router.destinations.base import Context, Lane, Outgoing, Presence
from router.destinations.outcomes import Outcome
from router.destinations.session import Answer, Deadline, Failed, Session, StoppedHere, peer_of
from router.destinations.verdicts import Verdict, judge, phrase
from router.dicom import part10
from router.dicom.errors import DicomError
from router.dicom.multipart import boundary_of, first_part

ACCEPT_OBJECT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
HEAD_BYTES = 1 << 16
"""More than any file meta of an honest server; what is longer is not taken as one."""
JSON = "application/dicom+json"
NO_QUERIES = frozenset({400, 405, 406, 501})
"""Such an answer to a query says that the service is there, and that it knows no such query."""


@dataclass(frozen=True, slots=True)
class Existing:
    """Whether the server has an object; with `is_final` asking again would not help."""

    state: Presence
    detail: str
    is_final: bool = False


UNREADABLE = Existing("unknown", "The stored object's header cannot be read.", is_final=True)


class Queries:
    """Questions to the server at `url` over one session."""

    def __init__(self, session: Session, url: str, context: Context) -> None:
        self._session, self._url, self._context = session, url, context
        self._name = peer_of(url)

    def service(self) -> tuple[Verdict | None, str]:
        """Ask for one study; of a server that answers no queries, for its capabilities.

        Returns:
            Why nothing can be sent there, None if nothing speaks against it; and a sentence.

        Raises:
            Failed, StoppedHere.
        """
        status = self._session.get(f"{self._url}/studies?limit=1", accept=JSON).status
        if 200 <= status < 300:
            return None, f"{self._name} answers queries for studies (HTTP {status})."
        if status in NO_QUERIES:
            return None, f"{self._name} is there and answers no queries (HTTP {status})."
        if status == 404:
            able = self._session.get(f"{self._url}/studies", accept="*/*", method="OPTIONS").status
            if 200 <= able < 300:
                return None, f"{self._name} tells what it can do and answers no queries."
        verdict = judge(status, peer=self._name)
        if verdict.lane is None:
            lane: Lane = "configuration" if status < 500 else "transport"
            outcome = Outcome.CONFIGURATION if status < 500 else Outcome.RETRY
            verdict = Verdict(outcome, verdict.detail, lane)
        return verdict, ""

    def listed(self, item: Outgoing) -> Existing:
        """Ask whether `item` is in its series; its bytes are not asked for. Never raises for the
        network or what comes back."""
        try:
            study, series = _uids(item)
        except (DicomError, OSError):
            return UNREADABLE
        inside = f"{self._url}/studies/{study}/series/{series}/instances"
        try:
            answer = self._session.get(
                f"{inside}?SOPInstanceUID={item.sop_instance_uid}", accept=JSON
            )
            if answer.status not in (*NO_QUERIES, 404):
                return self._found(item, answer)
            known = f"{inside}/{item.sop_instance_uid}/metadata"
            return self._found(item, self._session.get(known, accept=JSON))
        except StoppedHere as error:
            return Existing("unknown", f"{error}")
        except Failed as error:
            return Existing("unknown", error.verdict.detail)

    def _found(self, item: Outgoing, answer: Answer) -> Existing:
        said = f"{self._name} answered HTTP {answer.status}"
        if answer.status in (204, 404, 410):
            return Existing("absent", f"{said}: it does not have it.")
        if answer.status != 200:
            return Existing("unknown", f"{said}: {phrase(answer.status)}.")
        uids = _named(answer.body)
        if uids is None:
            return Existing("unknown", f"{said} with something that is no DICOM JSON.")
        if item.sop_instance_uid in uids:
            return Existing("present", f"{self._name} lists it; its bytes were not asked for.")
        return Existing("absent", f"{self._name} does not list it.")

    def existing(self, item: Outgoing) -> Existing:
        """Get `item` back and compare it; never raises for the network or what comes back."""
        try:
            study, series = _uids(item)
        except (DicomError, OSError):
            return UNREADABLE
        path = f"studies/{study}/series/{series}/instances/{item.sop_instance_uid}"
        headers = {"Accept": ACCEPT_OBJECT}
        try:
            with self._session.asked("GET", f"{self._url}/{path}", headers) as response:
                return self._compared(item, response)
        except StoppedHere as error:
            return Existing("unknown", f"{error}")
        except Failed as error:
            return Existing("unknown", error.verdict.detail)

    def _compared(self, item: Outgoing, response: httpx.Response) -> Existing:
        status = response.status_code
        if status in (404, 410):
            return Existing("absent", f"{self._name} does not have it (HTTP {status}).")
        if status != 200:
            said = f"{self._name} does not give it back: HTTP {status}, {phrase(status)}."
            return Existing("unknown", said, is_final=400 <= status < 500)
        deadline = Deadline(self._context, item.size, peer=self._name)
        try:
            syntax, sha256 = _digest(_pieces(response, deadline))
        except DicomError:
            said = f"{self._name} gives something back that is no DICOM file."
            return Existing("unknown", said, is_final=True)
        if (syntax, sha256) == (item.transfer_syntax, item.sha256):
            return Existing("present", f"{self._name} gives back the same bytes.")
        if syntax != item.transfer_syntax:
            said = f"{self._name} gives it back in another transfer syntax ({syntax})."
            return Existing("different", said, is_final=True)
        said = f"{self._name} gives back another object of this UID."
        return Existing("different", said, is_final=True)


def _uids(item: Outgoing) -> tuple[str, str]:
    header = item.header()
    return header.text("StudyInstanceUID"), header.text("SeriesInstanceUID")


def _named(body: bytes) -> set[str] | None:
    """Return the SOP Instance UIDs in an answer of DICOM JSON (PS3.18 F), None if it is none."""
    try:
        given: Any = json.loads(body) if body.strip() else []  # Any: whatever a stranger wrote
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        return None
    elements = [one.get("00080018") for one in given]
    values = [one.get("Value") for one in elements if isinstance(one, dict)]
    return {str(one) for value in values if isinstance(value, list) for one in value[:1]}


def _pieces(response: httpx.Response, deadline: Deadline) -> Iterator[bytes]:
    """Yield the object: the first part of a multipart body, or the body."""
    raw = _watched(response.iter_raw(), deadline)
    boundary = boundary_of(response.headers.get("Content-Type", ""))
    return raw if boundary is None else first_part(raw, boundary)


def _watched(pieces: Iterable[bytes], deadline: Deadline) -> Iterator[bytes]:
    for piece in pieces:
        deadline.check()
        yield piece


def _digest(pieces: Iterator[bytes]) -> tuple[str, str]:
    """Return transfer syntax and data set hash of a Part 10 file that comes in pieces.

    Raises:
        DicomError: it is none.
    """
    head = bytearray()
    while len(head) < HEAD_BYTES and (piece := next(pieces, b"")):
        head += piece
    meta = part10.read_meta(BytesIO(bytes(head)))
    digest = hashlib.sha256(head[meta.offset :])
    for piece in pieces:
        digest.update(piece)
    return meta.transfer_syntax, digest.hexdigest()
