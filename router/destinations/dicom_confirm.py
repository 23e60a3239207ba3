"""Asking a peer by C-FIND whether it has what was sent (PS3.4 Annex C.6.2, image level).

Study Root, a bounded list of SOP Instance UIDs in one series a question. What the peer says is
believed as far as it goes: a C-FIND tells that an object is there, and of what class, not that its
bytes are right.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ImplicitVRLittleEndian

from router import dimse
from router.destinations.base import Confirmation, Outgoing, Presence
from router.destinations.dicom_peer import Far
from router.destinations.outcomes import status_sentence
from router.dicom.errors import DicomError
from router.dicom.header import read_header
from router.dicom.syntaxes import TARGETS

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
PROPOSALS = (dimse.Proposal(1, STUDY_ROOT_FIND, TARGETS),)
MOST_UIDS = 50
SPARE_MATCHES = 20_000
"""How many matches more than asked for are heard: a peer may not know lists of UIDs."""

Words = Callable[[dimse.DimseError], str]
Place = tuple[str, str]
"""Study and Series Instance UID."""


class _Unknown(Exception):
    """The peer's answer says nothing; the text says why."""


def confirm(
    far: Far,
    items: Sequence[Outgoing],
    *,
    pace: dimse.Pace,
    stop: Callable[[], bool],
    refusal: Words,
) -> Iterator[Confirmation]:
    """Ask for `items` over one association, yielding one answer for each."""
    places: dict[Place, list[Outgoing]] = {}
    for item in items:
        place = _place(item)
        if place is None:
            yield _said(item, "unknown", "The stored object names no study and series to ask for.")
        else:
            places.setdefault(place, []).append(item)
    waiting = [(place, part) for place, all_ in places.items() for part in _parts(all_)]
    try:
        with dimse.associate(far.peer, PROPOSALS, pace=pace) as association:
            if 1 not in association.contexts:
                raise _Unknown(f"{far.name} offers no C-FIND of the Study Root model.")
            ask = _Question(far, association)
            while waiting and not stop():
                answers = [*ask.about(*waiting[0])]
                del waiting[0]
                yield from answers
            reason = "The asking was stopped on our side."
    except dimse.DimseError as error:
        reason = refusal(error)
    except _Unknown as unknown:
        reason = str(unknown)
    yield from (_said(item, "unknown", reason) for _place, part in waiting for item in part)


def _parts(items: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    for at in range(0, len(items), MOST_UIDS):
        yield items[at : at + MOST_UIDS]


def _place(item: Outgoing) -> Place | None:
    study, series = item.study_instance_uid, item.series_instance_uid
    if not study or not series:
        try:
            header = item.header()
        except (DicomError, OSError):
            return None
        study, series = header.text(0x0020000D), header.text(0x0020000E)
    return (study, series) if study and series else None


def _said(item: Outgoing, state: Presence, detail: str) -> Confirmation:
    return Confirmation(item.item_id, state, detail)


class _Question:
    """C-FINDs over one association."""

    def __init__(self, far: Far, association: dimse.Association) -> None:
        self._far, self._association = far, association
        self._syntax = association.contexts[1]

    def about(self, place: Place, items: Sequence[Outgoing]) -> Iterator[Confirmation]:
        """Yield an answer for each of `items`, which lie at `place`."""
        uids = [item.sop_instance_uid for item in items]
        found = self._ask(place, uids)
        if len(set(uids)) > 1 and not found:
            found = self._one_by_one(place, uids)
        for item in items:
            yield self._judged(item, found)

    def _one_by_one(self, place: Place, uids: Sequence[str]) -> Mapping[str, str]:
        """Some peers match no list of UIDs: when one of them is found alone, ask for each."""
        found = dict(self._ask(place, uids[:1]))
        if found:
            for uid in uids[1:]:
                found |= self._ask(place, [uid])
        return found

    def _ask(self, place: Place, uids: Sequence[str]) -> Mapping[str, str]:
        """Return what the peer has of `uids`, as SOP class by SOP Instance UID."""
        answer = self._association.find(
            1,
            _identifier(place, uids, self._syntax),
            sop_class_uid=STUDY_ROOT_FIND,
            most=len(uids) + SPARE_MATCHES,
        )
        if answer.status != 0:
            raise _Unknown(status_sentence(answer.status, peer=self._far.name))
        return dict(self._read(answer.identifiers))

    def _read(self, identifiers: Iterable[bytes]) -> Iterator[tuple[str, str]]:
        for data in identifiers:
            try:
                header = read_header(
                    BytesIO(data), offset=0, size=len(data), transfer_syntax=self._syntax
                )
            except DicomError as error:
                raise _Unknown(f"{self._far.name} gave a match that cannot be read.") from error
            yield header.text(0x00080018), header.text(0x00080016)

    def _judged(self, item: Outgoing, found: Mapping[str, str]) -> Confirmation:
        sop_class_uid = found.get(item.sop_instance_uid)
        if sop_class_uid is None:
            return _said(item, "absent", f"{self._far.name} does not find it (C-FIND).")
        if sop_class_uid not in ("", item.sop_class_uid):
            detail = f"{self._far.name} has it as another SOP class ({sop_class_uid})."
            return _said(item, "different", detail)
        return _said(item, "present", f"{self._far.name} finds it (C-FIND).")


def _identifier(place: Place, uids: Sequence[str], transfer_syntax: str) -> bytes:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "", list(uids)
    ds.QueryRetrieveLevel = "IMAGE"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = place
    buffer = DicomBytesIO()
    buffer.is_little_endian = True
    buffer.is_implicit_VR = transfer_syntax == ImplicitVRLittleEndian
    write_dataset(buffer, ds)
    return bytes(buffer.getvalue())
