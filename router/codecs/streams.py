"""What a codestream says of its own size: JPEG, JPEG-LS (frame header) and JPEG 2000 (SIZ)."""

from pydicom.uid import RLELossless

from router.dicom.syntaxes import DECODABLE

SIZED = DECODABLE - {str(RLELossless)}
"""RLE names no dimensions; its decoder compares the length of each segment."""

_J2K, _JP2 = b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0c\x6a\x50\x20\x20"
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""SOF0 to SOF15 (ITU-T T.81 Table B.1) and SOF55 of JPEG-LS."""


def size_of(stream: bytes) -> tuple[int, int, int] | None:
    """Return rows, columns and components, None when the stream does not say so."""
    if stream.startswith(_JP2):
        start = stream.find(_J2K)
        return _of_siz(stream[start : start + 64]) if start > 0 else None
    if stream.startswith(_J2K):
        return _of_siz(stream[:64])
    return _of_frame(stream)


def _of_siz(head: bytes) -> tuple[int, int, int] | None:
    """ISO/IEC 15444-1 A.5.1: Xsiz, Ysiz, XOsiz, YOsiz from byte 8, Csiz at byte 40."""
    if len(head) < 42:
        return None
    width, height, left, top = (int.from_bytes(head[at : at + 4], "big") for at in (8, 12, 16, 20))
    return height - top, width - left, int.from_bytes(head[40:42], "big")


def _of_frame(stream: bytes) -> tuple[int, int, int] | None:
    at = 2
    while at + 10 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:  # fill bytes may precede a marker
            at += 1
        elif marker in _FRAMES:
            rows, columns = stream[at + 5 : at + 7], stream[at + 7 : at + 9]
            return int.from_bytes(rows, "big"), int.from_bytes(columns, "big"), stream[at + 9]
        else:
            length = int.from_bytes(stream[at + 2 : at + 4], "big")
            at += 2 if marker in _WITHOUT_LENGTH else 2 + length
    return None
