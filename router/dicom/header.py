"""The header of an object: `examine` proves its structure, `read_header` reads what rules see.

It answers questions about elements and sequences before the pixel data (`elements.Header`). It
decodes no pixels and changes nothing.
"""

from dataclasses import dataclass
from typing import BinaryIO, Final

from router.dicom import uids
from router.dicom.elements import (
    ABSENT,
    EMPTY,
    NOT_TEXT,
    TAGS,
    TOO_LONG,
    UNDECODABLE,
    WRONG_LENGTH,
    Field,
    Header,
    Key,
    RawElement,
    pack,
    unpack,
)
from router.dicom.errors import DeflateBomb, TruncatedDataSet
from router.dicom.limits import Limits
from router.dicom.walk import Walk
from router.dicom.window import InflatedWindow, PlainWindow, Window

__all__ = [
    "ABSENT",
    "EMPTY",
    "NOT_TEXT",
    "TAGS",
    "TOO_LONG",
    "UNDECODABLE",
    "WRONG_LENGTH",
    "Field",
    "Header",
    "Key",
    "RawElement",
    "Structure",
    "examine",
    "pack",
    "read_header",
    "unpack",
]

_ROWS, _COLUMNS, _BITS, _PIXEL_URL = 0x00280010, 0x00280011, 0x00280100, 0x00287FE0
_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
_LIMITS: Final = Limits()


@dataclass(frozen=True)
class Structure:
    """What `examine` found.

    `opaque` is the reason why not all of it was looked at (R31), else None. `quarantine` is the
    reason why the object must be kept apart until a person decides, else None: a data set that
    inflates beyond the limits, known as far as it was inflated. `pixel_data` is
    (tag, where its value starts in the file, length or None when encapsulated); in a deflated
    data set the start counts in the inflated bytes.
    """

    header: Header
    opaque: str | None
    sop_class_uid: str | None
    sop_instance_uid: str | None
    study_instance_uid: str | None
    series_instance_uid: str | None
    pixel_data: tuple[int, int, int | None] | None
    elements: int
    depth: int
    quarantine: str | None = None


def examine(
    file: BinaryIO, *, offset: int, size: int, transfer_syntax: str, limits: Limits = _LIMITS
) -> Structure:
    """Walk the data set of `size` bytes at `offset` to its very end.

    Raises TruncatedDataSet or MalformedDataSet; an object too deep or too rich for the limits is
    no error but `opaque`, one that inflates beyond them is `quarantine`. A cut exactly between two
    top-level elements leaves a lawful data set: it is found only where an image announces pixels
    that are not there.
    """
    walk = _walk(file, offset, size, transfer_syntax=transfer_syntax, limits=limits)
    quarantine = None
    try:
        walk.run()
    except DeflateBomb as bomb:
        quarantine = str(bomb)
    header = _header(walk, transfer_syntax)
    if walk.opaque is None and walk.pixel_data is None and quarantine is None:
        _refuse_missing_pixels(header, size)
    pixels = walk.pixel_data
    if pixels is not None and not uids.is_deflated(transfer_syntax):
        pixels = (pixels[0], offset + pixels[1], pixels[2])
    return Structure(
        header=header,
        opaque=walk.opaque,
        sop_class_uid=header.text(_SOP_CLASS) or None,
        sop_instance_uid=header.text(_SOP_INSTANCE) or None,
        study_instance_uid=header.text(_STUDY) or None,
        series_instance_uid=header.text(_SERIES) or None,
        pixel_data=pixels,
        elements=walk.count,
        depth=walk.deepest,
        quarantine=quarantine,
    )


def read_header(
    file: BinaryIO, *, offset: int, size: int, transfer_syntax: str, limits: Limits = _LIMITS
) -> Header:
    """The elements before the pixel data; nothing after them is read.

    Raises as `examine` does, and DeflateBomb.
    """
    walk = _walk(
        file, offset, size, transfer_syntax=transfer_syntax, limits=limits, stop_at_pixels=True
    ).run()
    return _header(walk, transfer_syntax)


def _walk(
    file: BinaryIO,
    offset: int,
    size: int,
    *,
    transfer_syntax: str,
    limits: Limits,
    stop_at_pixels: bool = False,
) -> Walk:
    window: Window
    if uids.is_deflated(transfer_syntax):
        window = InflatedWindow(file, offset, size, limits=limits)
    else:
        window = PlainWindow(file, offset, size)
    return Walk(
        window,
        limits,
        implicit=uids.is_implicit(transfer_syntax),
        little=not uids.is_big_endian(transfer_syntax),
        stop_at_pixels=stop_at_pixels,
    )


def _header(walk: Walk, transfer_syntax: str) -> Header:
    return Header(
        walk.elements,
        implicit=uids.is_implicit(transfer_syntax),
        little=not uids.is_big_endian(transfer_syntax),
    )


def _refuse_missing_pixels(header: Header, size: int) -> None:
    """An image with rows, columns and bits but no pixels was cut between two elements.

    Not so when a Pixel Data Provider URL stands for them (PS3.3 C.7.6.3), or for a class that is
    no image storage.
    """
    announced = _ROWS in header and _COLUMNS in header and _BITS in header
    if announced and _PIXEL_URL not in header and uids.is_image_storage(header.text(_SOP_CLASS)):
        raise TruncatedDataSet(size, "the pixel data that Rows and Columns announce is missing")
