"""Frames of an image, decoded and encoded (PS3.5 8.2 and Annex A) with the codecs of others.

Colours are converted only where the compression had lost some already (JPEG with YBR, which leaves
as RGB); everything else comes out sample for sample. What was encoded is decoded again and compared
before it is given out: wrong pixels are worse than none.
"""

from collections.abc import Iterator
from importlib import import_module
from io import BytesIO

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.filereader import read_dataset
from pydicom.pixels import get_decoder, get_encoder
from pydicom.tag import Tag
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from router.codecs.streams import SIZED, size_of
from router.dicom.syntaxes import ENCODABLE, TARGETS

Array = NDArray[np.generic]

_KEYWORDS = (
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
_TAGS = [Tag(keyword) for keyword in _KEYWORDS]
_LOSSY = frozenset({str(JPEGBaseline8Bit), str(JPEGExtended12Bit)})
_PLUGINS: dict[str, tuple[str, tuple[str, ...]]] = {
    str(RLELossless): ("pylibjpeg", ("pylibjpeg", "rle")),
    **dict.fromkeys(
        map(str, (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)),
        ("pylibjpeg", ("pylibjpeg", "openjpeg")),
    ),
    **dict.fromkeys(map(str, (JPEGLSLossless, JPEGLSNearLossless)), ("pyjpegls", ("jpeg_ls",))),
    **dict.fromkeys(map(str, (JPEGBaseline8Bit, JPEGExtended12Bit)), ("pillow", ("PIL",))),
}
"""pydicom's plug-in for each syntax, and the modules that it needs and is silent without. Always
the same one, so that an object comes out as the same bytes again (R22)."""
_BY_IMAGECODECS = frozenset({str(JPEGLossless), str(JPEGLosslessSV1)})


class CodecError(Exception):
    """The pixel data is not what the attributes say, or cannot be turned."""


def turned(data: bytes, *, stored: str, wanted: str) -> Iterator[tuple[bytes, str]]:
    """Yield each frame of the data set `data` in `wanted`, with its photometric interpretation.

    Args:
        data: an explicit VR little endian data set.
        stored: how its pixel data is encoded; any uncompressed syntax means native.
        wanted: an uncompressed syntax, or one that is encoded to.

    Raises:
        CodecError, or whatever the codec raises.
    """
    ds = read_dataset(
        BytesIO(data), is_implicit_VR=False, is_little_endian=True, specific_tags=_TAGS
    )
    del data
    if "PixelData" not in ds:
        raise CodecError("there is no pixel data")
    syntax = UID(stored) if UID(stored).is_encapsulated else ExplicitVRLittleEndian
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    for frame, photometric in _arrays(ds, syntax):
        samples = _fitting(frame, ds)
        if wanted in TARGETS:
            yield samples.tobytes(), photometric
        elif wanted in ENCODABLE:
            yield _encoded(samples, ds, UID(wanted), photometric=photometric), photometric
        else:
            raise CodecError(f"nothing is encoded in {wanted}")


def _arrays(ds: Dataset, syntax: UID) -> Iterator[tuple[Array, str]]:
    """Yield the frames as arrays of rows, columns and samples."""
    if syntax.is_encapsulated and syntax in SIZED:
        _compare_sizes(ds)
    is_wide = syntax == JPEGExtended12Bit and ds.BitsStored != 8
    if syntax in _BY_IMAGECODECS or is_wide:
        for stream in _streams(ds):
            yield np.asarray(imagecodecs.jpeg_decode(stream)), ds.PhotometricInterpretation
        return
    options = {"as_rgb": syntax in _LOSSY, "raw": syntax == ExplicitVRLittleEndian}
    plugin = _plugin(syntax)
    for frame, facts in get_decoder(syntax).iter_array(ds, decoding_plugin=plugin, **options):
        yield frame, str(facts["photometric_interpretation"])


def _plugin(syntax: UID) -> str:
    """Return the name of pydicom's plug-in for `syntax`; none for what is native."""
    name, modules = _PLUGINS.get(str(syntax), ("", ()))
    for module in modules:
        import_module(module)
    return name


def _streams(ds: Dataset) -> Iterator[bytes]:
    frames = int(ds.get("NumberOfFrames") or 1)
    offsets = None
    if "ExtendedOffsetTable" in ds and "ExtendedOffsetTableLengths" in ds:
        offsets = (ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths)
    yield from generate_frames(ds.PixelData, number_of_frames=frames, extended_offsets=offsets)


def _compare_sizes(ds: Dataset) -> None:
    """A codestream of other dimensions must not be read as if it had these."""
    due = (int(ds.Rows), int(ds.Columns), int(ds.SamplesPerPixel))
    for stream in _streams(ds):
        found = size_of(stream)
        if found != due:
            raise CodecError(f"a frame says that it is {found} where {due} is due")


def _fitting(frame: Array, ds: Dataset) -> Array:
    """Return `frame` in the allocated bits, little endian; its shape must be the announced one."""
    rows, columns, samples = int(ds.Rows), int(ds.Columns), int(ds.SamplesPerPixel)
    due = (rows, columns) if samples == 1 else (rows, columns, samples)
    if frame.shape != due:
        raise CodecError(f"a frame came out as {frame.shape} where {due} is due")
    kind = frame.dtype.kind
    if kind not in "iu":
        raise CodecError(f"a frame came out as {frame.dtype}")
    wanted = np.dtype(f"<{kind}{int(ds.BitsAllocated) // 8}")
    fitting = frame.astype(wanted)
    if frame.dtype.itemsize > wanted.itemsize and not np.array_equal(fitting, frame):
        raise CodecError(f"a frame came out with more than {ds.BitsAllocated} bits")
    return fitting


def _encoded(samples: Array, ds: Dataset, syntax: UID, *, photometric: str) -> bytes:
    described = _described(ds, photometric)
    plugin = _plugin(syntax)
    frame = bytes(get_encoder(syntax).encode(samples, encoding_plugin=plugin, **described))
    back, _facts = get_decoder(syntax).as_array(
        _wrapped(frame), **described, as_rgb=False, index=0, decoding_plugin=plugin
    )
    if not np.array_equal(back, samples):
        raise CodecError("what was encoded does not come out as it went in")
    return frame


def _described(ds: Dataset, photometric: str) -> dict[str, object]:
    options: dict[str, object] = {
        "rows": int(ds.Rows),
        "columns": int(ds.Columns),
        "samples_per_pixel": int(ds.SamplesPerPixel),
        "bits_allocated": int(ds.BitsAllocated),
        "bits_stored": int(ds.BitsStored),
        "pixel_representation": int(ds.PixelRepresentation),
        "photometric_interpretation": photometric,
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
    }
    if int(ds.SamplesPerPixel) > 1:
        options["planar_configuration"] = 0
    return options


def _wrapped(frame: bytes) -> bytes:
    """Return one frame as encapsulated pixel data, the way decoders take it."""
    padded = frame + b"\0" * (len(frame) % 2)
    head = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0" + len(padded).to_bytes(4, "little")
    return head + padded + b"\xfe\xff\xdd\xe0\0\0\0\0"
