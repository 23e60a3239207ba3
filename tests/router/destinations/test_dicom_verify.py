"""Trying a storage SCP: verification, the test object, the rehearsal."""

import io

import pydicom
import pytest

from router.destinations import KINDS
from router.destinations.dicom import DicomSender
from router.destinations.trials import Offer
from router.dicom import part10
from tests.router.destinations.objects import CT, EXPLICIT, IMPLICIT, J2K
from tests.sinks import RawSink, Script, Sink

MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
SC = "1.2.840.10008.5.1.4.1.1.7"
MPEG4 = "1.2.840.10008.1.2.4.102"


def sender(sink: Sink | RawSink, **settings: object) -> DicomSender:
    form = KINDS["dicom"].form(sink.settings | {"response_timeout": "2s"} | settings)
    assert form.is_valid(), form.errors
    return DicomSender(form.cleaned_data)


class TestVerify:
    def test_names_every_step(self) -> None:
        with Sink(Script(sop_classes=[CT], transfer_syntaxes=[EXPLICIT])) as sink:
            verification = sender(sink).verify()
        assert verification.ok
        names = [step.name for step in verification.steps]
        assert names == ["connection", "association", "echo", "contexts"]
        assert verification.steps[-1].detail == (
            "Accepted are CT Image Storage: Explicit VR Little Endian."
        )

    def test_stops_at_the_step_that_failed(self) -> None:
        with Sink(Script(reject=(1, 1, 7))) as sink:
            verification = sender(sink).verify()
        assert not verification.ok
        assert [step.ok for step in verification.steps] == [True, False]
        assert "Correct ae_title here." in verification.steps[-1].detail

    def test_says_that_nothing_listens(self) -> None:
        with RawSink(lambda connection: None) as gone:
            pass
        [step] = sender(gone).verify().steps
        assert (step.name, step.ok) == ("connection", False)

    def test_sends_nothing(self) -> None:
        with Sink() as sink:
            assert sender(sink).verify().ok
            assert sink.objects == []


class TestTestObject:
    @pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
    def test_is_stored_and_is_nobodys(self, syntax: str) -> None:
        with Sink(Script(transfer_syntaxes=[syntax])) as sink:
            verification = sender(sink).send_test()
        assert verification.ok, verification.steps
        assert verification.steps[-1].name == "test object"
        [arrived] = sink.objects
        assert arrived.sop_instance_uid in verification.steps[-1].detail
        meta = part10.file_meta(
            sop_class_uid=SC, sop_instance_uid=arrived.sop_instance_uid, transfer_syntax=syntax
        )
        ds = pydicom.dcmread(io.BytesIO(meta + arrived.data))
        assert str(ds.PatientName).startswith("TEST^")
        assert (ds.PatientID, ds.StudyDescription) == ("ROUTER-TEST", "TEST OBJECT - NO PATIENT")
        assert len(ds.PixelData) == 64 * 64

    def test_two_of_them_are_of_one_study(self) -> None:
        with Sink() as sink:
            assert sender(sink).send_test().ok
            assert sender(sink).send_test().ok
        first, second = sink.objects
        assert first.sop_instance_uid != second.sop_instance_uid

    def test_a_refusal_is_the_last_step(self) -> None:
        with Sink(Script(statuses={1: 0xA700})) as sink:
            verification = sender(sink).send_test()
        assert not verification.ok
        assert "A700: out of resources" in verification.steps[-1].detail

    def test_says_when_there_is_no_context_for_it(self) -> None:
        with Sink(Script(sop_classes=[CT])) as sink:
            verification = sender(sink).send_test()
        assert (verification.ok, sink.objects) == (False, [])
        assert "Secondary Capture" in verification.steps[-1].detail


class TestRehearsal:
    OFFERS = (
        Offer(CT, EXPLICIT, 40, 4000),
        Offer(CT, J2K, 12, 1200),
        Offer(ENHANCED_CT, EXPLICIT, 3, 9),
        Offer(MR, MPEG4, 1, 1),
    )

    def verdicts(self, sink: Sink, **settings: object) -> list[tuple[str, str]]:
        rehearsed = sender(sink, **settings).rehearse(self.OFFERS)
        assert [trial.offer for trial in rehearsed.trials] == list(self.OFFERS)
        assert sink.objects == []
        assert rehearsed.ok is all(trial.verdict != "refused" for trial in rehearsed.trials)
        return [(trial.verdict, trial.sends_as) for trial in rehearsed.trials]

    def test_lists_what_a_peer_refuses(self) -> None:
        """D11: a peer that refuses JPEG 2000 and Enhanced CT has both listed."""
        with Sink(Script(sop_classes=[CT, MR], transfer_syntaxes=[EXPLICIT])) as sink:
            assert self.verdicts(sink) == [
                ("as_is", EXPLICIT),
                ("refused", ""),
                ("refused", ""),
                ("refused", ""),
            ]

    def test_says_what_would_be_turned(self) -> None:
        with Sink(Script(sop_classes=[CT, MR], transfer_syntaxes=[EXPLICIT])) as sink:
            assert self.verdicts(sink, transfer_syntax="uncompressed") == [
                ("as_is", EXPLICIT),
                ("turned", EXPLICIT),
                ("refused", ""),
                ("refused", ""),
            ]

    def test_leaves_out_what_is_excluded(self) -> None:
        with Sink(Script(sop_classes=[CT, MR])) as sink:
            found = self.verdicts(sink, sop_classes={"deny": ["EnhancedCTImageStorage"]})
        assert found == [
            ("as_is", EXPLICIT),
            ("as_is", J2K),
            ("excluded", ""),
            ("as_is", MPEG4),
        ]

    def test_says_why_there_was_none(self) -> None:
        with Sink(Script(reject=(1, 1, 3))) as sink:
            rehearsed = sender(sink).rehearse(self.OFFERS)
        assert (rehearsed.ok, rehearsed.trials) == (False, ())
        assert "does not know our AE title" in rehearsed.problem
