"""An archive as a far end: a sink that answers C-FIND and loses what it is told to lose."""

from collections.abc import Iterable, Iterator
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from tests.sinks import Script, Sink, Stored


class Archive(Sink):
    """A sink that can be asked; `questions` counts the objects that it was asked for."""

    def __init__(self, script: Script | None = None) -> None:
        super().__init__(script)
        self.questions = 0

    def take(self, sop_instance_uid: str, sop_class_uid: str) -> None:
        """Have an object without being sent it."""
        one = Stored(sop_class_uid, sop_instance_uid, "", "", 0, 0, b"")
        self.objects.append(one)

    def lose(self, uids: Iterable[str]) -> None:
        """Have these SOP instances no more, until they are stored again."""
        lost = set(uids)
        self.objects = [one for one in self.objects if one.sop_instance_uid not in lost]

    def _handlers(self) -> list[Any]:
        return [*super()._handlers(), (evt.EVT_C_FIND, self._on_find)]

    def _contexts(self) -> list[Any]:
        return [*super()._contexts(), build_context(StudyRootQueryRetrieveInformationModelFind)]

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        asked = event.identifier
        uids = asked["SOPInstanceUID"].value
        wanted = {str(uids)} if isinstance(uids, str) else {str(uid) for uid in uids}
        self.questions += len(wanted)
        for one in list({stored.sop_instance_uid: stored for stored in self.objects}.values()):
            if one.sop_instance_uid in wanted:
                match = Dataset()
                match.QueryRetrieveLevel = "IMAGE"
                match.SOPInstanceUID, match.SOPClassUID = one.sop_instance_uid, one.sop_class_uid
                yield 0xFF00, match
