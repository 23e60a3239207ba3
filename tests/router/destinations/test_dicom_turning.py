"""Objects turned into another transfer syntax on the way out: sample for sample, or not at all.

What leaves is compared with what other decoders (DCMTK, Pillow) make of the stored object.
"""

import dataclasses
import hashlib
import io
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from router.destinations import KINDS
from router.destinations.base import Context, Outgoing, Result
from router.destinations.outcomes import Outcome
from router.dicom import part10
from router.dicom.syntaxes import DECODABLE
from tests.router.destinations.objects import (
    BIG,
    CT,
    EXPLICIT,
    IMPLICIT,
    J2K,
    kept,
    made,
    real_files,
    stored,
)
from tests.sinks import Script, Sink, Stored

Array = NDArray[Any]  # of any number type
DCMTK = {
    **dict.fromkeys(("50", "51", "57", "70"), "/usr/bin/dcmdjpeg"),
    **dict.fromkeys(("80", "81"), "/usr/bin/dcmdjpls"),
    "5": "/usr/bin/dcmdrle",
}
"""DCMTK's decoders by the end of the transfer syntax UID."""


@cache
def compressed() -> tuple[Path, ...]:
    """Real files with compressed pixels, not too large, and at most four of each syntax."""
    by_syntax: dict[str, list[Path]] = {}
    for path in real_files():
        with path.open("rb") as file:
            syntax = part10.read_meta(file).transfer_syntax
        if syntax in DECODABLE and path.stat().st_size < 4 << 20:
            by_syntax.setdefault(syntax, []).append(path)
    return tuple(path for paths in by_syntax.values() for path in paths[:4])


def send(items: list[Outgoing], wanted: object, *takes: str) -> tuple[list[Result], list[Stored]]:
    script = Script(transfer_syntaxes=takes or (EXPLICIT, IMPLICIT))
    with Sink(script) as sink:
        form = KINDS["dicom"].form(sink.settings | {"transfer_syntax": wanted})
        assert form.is_valid(), form.errors
        results = list(KINDS["dicom"].sender(form.cleaned_data).send(items, Context()))
        return results, sink.objects


def read(one: Stored) -> Dataset:
    meta = part10.file_meta(
        sop_class_uid=one.sop_class_uid,
        sop_instance_uid=one.sop_instance_uid,
        transfer_syntax=one.transfer_syntax,
    )
    return pydicom.dcmread(io.BytesIO(meta + one.data))


def image(frames: Array, **values: object) -> Dataset:
    """A CT with these frames, native."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CT, "1.2.826.0.1.3680043.10.77.900"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3.1", "1.2.3.2"
    ds.Modality, ds.PatientID, ds.NumberOfFrames = "CT", "P1", len(frames)
    ds.Rows, ds.Columns = frames.shape[1:3]
    ds.SamplesPerPixel = frames.shape[3] if frames.ndim == 4 else 1
    ds.PhotometricInterpretation = "RGB" if frames.ndim == 4 else "MONOCHROME2"
    if frames.ndim == 4:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = frames.dtype.itemsize * 8
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(frames.dtype.kind == "i")
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    ds.PixelData = frames.tobytes()
    ds["PixelData"].VR = "OW" if ds.BitsAllocated > 8 else "OB"
    return ds


def item_of(ds: Dataset, folder: Path, syntax: str, *, item_id: int = 1) -> Outgoing:
    buffer = DicomBytesIO()
    buffer.is_little_endian = UID(syntax).is_little_endian
    buffer.is_implicit_VR = UID(syntax).is_implicit_VR
    write_dataset(buffer, ds)
    uids = str(ds.SOPClassUID), str(ds.SOPInstanceUID), syntax
    return kept(bytes(buffer.getvalue()), folder, uids=uids, item_id=item_id)


def wrapped(ds: Dataset, *streams: bytes | bytearray) -> Dataset:
    ds.PixelData = encapsulate([bytes(stream) for stream in streams])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return ds


def noise(*shape: int, most: int = 4096, kind: str = "<u2") -> Array:
    return np.random.default_rng(7).integers(0, most, shape).astype(kind)


class TestDecoding:
    @pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, about some real files
    @pytest.mark.parametrize("path", compressed(), ids=lambda path: path.name)
    def test_real_files_come_out_as_other_decoders_see_them(
        self, path: Path, tmp_path: Path
    ) -> None:
        item = stored(path, tmp_path)
        [result], arrived = send([item], "uncompressed")
        if result.outcome != Outcome.DELIVERED:
            assert arrived == []
            # One bit a sample is beyond what is decoded; all else that is refused, others refuse.
            if "of 1 times 1 bits cannot be decoded" not in result.detail:
                with pytest.raises((ValueError, RuntimeError)):
                    reference(path, tmp_path)
            return
        assert "re-encoded in Explicit VR Little Endian" in result.detail
        there, before = read(arrived[0]), pydicom.dcmread(path)
        assert arrived[0].sop_instance_uid == item.sop_instance_uid
        assert result.egress_sha256 == hashlib.sha256(arrived[0].data).hexdigest()
        changed = {"PixelData", "PhotometricInterpretation", "PlanarConfiguration"}
        changed |= {"ExtendedOffsetTable", "ExtendedOffsetTableLengths"}
        for element in before:
            if element.keyword not in changed and element.tag.element != 0:
                assert there[element.tag] == element
        same_pixels(
            there, reference(path, tmp_path), is_lossy=item.transfer_syntax[-2:] in ("50", "51")
        )

    @pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
    @pytest.mark.parametrize(
        "frames",
        [
            noise(3, 41, 37),
            noise(1, 48, 40, most=256, kind="u1"),
            noise(2, 33, 35, 3, most=256, kind="u1"),
            noise(1, 64, 33, most=60000, kind="<u2"),
            (noise(1, 64, 33, most=4000) - 1024).astype("<i2"),
        ],
        ids=["12-bit frames", "8-bit", "odd colours", "16-bit", "signed"],
    )
    def test_round_trips_are_exact(self, tmp_path: Path, syntax: UID, frames: Array) -> None:
        item = item_of(image(frames), tmp_path, EXPLICIT)
        [result], [packed] = send([item], [str(syntax), EXPLICIT], str(syntax))
        assert (result.outcome, packed.transfer_syntax) == (Outcome.DELIVERED, syntax)
        compact = kept(
            packed.data,
            tmp_path,
            uids=(packed.sop_class_uid, packed.sop_instance_uid, str(syntax)),
            item_id=2,
        )
        [_], [back] = send([compact], "uncompressed")
        assert read(back).PixelData[: frames.nbytes] == frames.tobytes()
        assert read(back).PhotometricInterpretation == image(frames).PhotometricInterpretation

    @pytest.mark.parametrize("source", [EXPLICIT, IMPLICIT, BIG])
    def test_encodes_from_every_uncompressed_syntax(self, tmp_path: Path, source: str) -> None:
        frames = noise(1, 40, 36)
        ds = image(frames)
        if source == BIG:
            ds.PixelData = frames.astype(">u2").tobytes()
        [result], [packed] = send(
            [item_of(ds, tmp_path, source)], ["JPEG2000Lossless", EXPLICIT], J2K
        )
        assert result.outcome == Outcome.DELIVERED
        assert np.array_equal(read(packed).pixel_array, frames[0])

    def test_lossless_jpeg_of_twelve_bits(self, tmp_path: Path) -> None:
        frame = noise(1, 32, 24)[0]
        lossless = imagecodecs.ljpeg_encode(frame, bitspersample=12)
        ds = wrapped(image(frame[None], BitsStored=12, HighBit=11), lossless)
        [result], [out] = send([item_of(ds, tmp_path, str(JPEGLosslessSV1))], "uncompressed")
        assert result.outcome == Outcome.DELIVERED, result.detail
        assert read(out).PixelData == frame.tobytes()

    def test_htj2k(self, tmp_path: Path) -> None:
        frame = noise(1, 32, 24)[0]
        stream = imagecodecs.htj2k_encode(frame, reversible=True)
        ds = wrapped(image(frame[None], BitsStored=12, HighBit=11), stream)
        [result], [out] = send([item_of(ds, tmp_path, str(HTJ2KLossless))], "uncompressed")
        assert result.outcome == Outcome.DELIVERED, result.detail
        assert read(out).PixelData == frame.tobytes()

    def test_a_retry_is_byte_for_byte_the_same(self, tmp_path: Path) -> None:
        items = [stored(path, tmp_path, item_id=n) for n, path in enumerate(compressed()[:3])]
        first, second = (send(items, "uncompressed")[0] for _ in range(2))
        assert [r.egress_sha256 for r in first] == [r.egress_sha256 for r in second]

    def test_what_is_accepted_as_stored_is_left_alone(self, tmp_path: Path) -> None:
        path = compressed()[0]
        item = stored(path, tmp_path)
        [result], [arrived] = send(
            [item], [EXPLICIT, item.transfer_syntax], EXPLICIT, item.transfer_syntax
        )
        assert (result.outcome, arrived.sha256) == (Outcome.DELIVERED, item.sha256)

    def test_the_best_of_the_list_that_the_peer_takes(self, tmp_path: Path) -> None:
        item = item_of(image(noise(1, 8, 8)), tmp_path, EXPLICIT)
        wanted = ["JPEGLSLossless", "RLELossless", "ImplicitVRLittleEndian"]
        _, [arrived] = send([item], wanted, IMPLICIT, str(RLELossless))
        assert arrived.transfer_syntax == RLELossless

    def test_objects_without_pixels_leave_uncompressed(self, tmp_path: Path) -> None:
        ds = image(noise(1, 8, 8))
        for keyword in ("Rows", "Columns", "PixelData", "BitsAllocated"):
            delattr(ds, keyword)
        item = item_of(ds, tmp_path, EXPLICIT)
        [result], [arrived] = send([item], [J2K, "ImplicitVRLittleEndian"], J2K, IMPLICIT)
        assert (result.outcome, arrived.transfer_syntax) == (Outcome.DELIVERED, IMPLICIT)


class TestRefusing:
    """Wrong pixels are worse than none: the object is parked and nothing leaves."""

    def parked(self, item: Outgoing, words: str, wanted: object = "uncompressed") -> None:
        [result], arrived = send([item], wanted)
        assert arrived == []
        assert (result.outcome, result.lane) == (Outcome.DATA_ERROR, None)
        assert words in result.detail

    @pytest.fixture
    def stream(self) -> bytes:
        path = Path(str(pydicom.data.get_testdata_file("JPEG2000.dcm", download=False)))
        ds = pydicom.dcmread(path)
        return bytes(next(generate_frames(ds.PixelData, number_of_frames=1)))

    def j2k(self, folder: Path, stream: bytes, **values: object) -> Outgoing:
        frames = np.zeros((1, 1024, 256), "<i2")
        return item_of(wrapped(image(frames, **values), stream), folder, J2K)

    def test_the_stream_itself_is_fine(self, tmp_path: Path, stream: bytes) -> None:
        [result], _ = send([self.j2k(tmp_path, stream)], "uncompressed")
        assert result.outcome == Outcome.DELIVERED, result.detail

    def test_other_dimensions_of_the_same_area(self, tmp_path: Path, stream: bytes) -> None:
        self.parked(self.j2k(tmp_path, stream, Rows=256, Columns=1024), "is due")

    def test_fewer_frames_than_announced(self, tmp_path: Path, stream: bytes) -> None:
        self.parked(self.j2k(tmp_path, stream, NumberOfFrames=2), "cannot be turned")

    def test_a_stream_that_is_cut(self, tmp_path: Path, stream: bytes) -> None:
        self.parked(self.j2k(tmp_path, stream[:40]), "cannot be turned")

    def test_a_stream_that_is_none(self, tmp_path: Path) -> None:
        self.parked(self.j2k(tmp_path, b"not a codestream"), "cannot be turned")

    def test_a_claim_beyond_the_ceiling(self, tmp_path: Path, stream: bytes) -> None:
        item = self.j2k(tmp_path, stream, Rows=65535, Columns=65535)
        self.parked(item, "are allowed")

    def test_a_damaged_object(self, tmp_path: Path, stream: bytes) -> None:
        item = dataclasses.replace(self.j2k(tmp_path, stream), sha256="0" * 64)
        self.parked(item, "not those that were received")

    def test_one_bad_object_does_not_stop_the_others(self, tmp_path: Path, stream: bytes) -> None:
        bad = dataclasses.replace(self.j2k(tmp_path, b"junk"), item_id=1)
        good = made(tmp_path, item_id=2)
        results, arrived = send([bad, good], "uncompressed")
        assert [r.outcome for r in results] == [Outcome.DATA_ERROR, Outcome.DELIVERED]
        assert len(arrived) == 1

    def test_what_nothing_decodes_is_named(self, tmp_path: Path) -> None:
        video = "1.2.840.10008.1.2.4.102"
        item = kept(b"", tmp_path, uids=(CT, "1.2.3", video), item_id=1)
        self.parked(item, "cannot be turned into a transfer syntax that")

    def test_compressed_icons_are_not_decoded(self, tmp_path: Path, stream: bytes) -> None:
        ds = wrapped(image(np.zeros((1, 1024, 256), "<i2")), stream)
        icon = wrapped(image(np.zeros((1, 8, 8), "u1")), b"abcd")
        ds.IconImageSequence = [icon]
        self.parked(item_of(ds, tmp_path, J2K), "encapsulated")


def test_a_stop_while_a_codec_works_costs_no_attempt(tmp_path: Path) -> None:
    item = stored(compressed()[0], tmp_path)
    with Sink(Script(transfer_syntaxes=(EXPLICIT,))) as sink:
        form = KINDS["dicom"].form(sink.settings | {"transfer_syntax": "uncompressed"})
        assert form.is_valid()
        stopped = Context(abort=lambda: bool(sink.associations))
        [result] = KINDS["dicom"].sender(form.cleaned_data).send([item], stopped)
        assert sink.objects == []
    assert (result.outcome, result.lane) == (Outcome.NOT_SENT, None)


def reference(path: Path, folder: Path) -> Array:
    """The pixels of a file as a decoder that is not ours sees them: DCMTK, else Pillow."""
    ds = pydicom.dcmread(path)
    syntax = ds.file_meta.TransferSyntaxUID
    program = DCMTK.get(str(syntax).rpartition(".")[2])
    if program is not None:
        out = folder / "reference.dcm"
        done = subprocess.run([program, str(path), str(out)], check=False, capture_output=True)
        if done.returncode == 0:
            return samples_of(pydicom.dcmread(out), raw=True)
    return samples_of(ds, as_rgb=False)


def samples_of(ds: Dataset, **options: bool) -> Array:
    found: Array = get_decoder(ds.file_meta.TransferSyntaxUID).as_array(ds, **options)[0]
    return found


def same_pixels(there: Dataset, wanted: Array, *, is_lossy: bool) -> None:
    """Lossless is exact; decoders of lossy JPEG may round differently."""
    there.file_meta.TransferSyntaxUID = UID(EXPLICIT)
    found = samples_of(there, raw=True)
    assert found.shape == wanted.shape
    difference = np.abs(found.astype("i8") - wanted.astype("i8"))
    assert difference.max() <= (8 if is_lossy else 0)
