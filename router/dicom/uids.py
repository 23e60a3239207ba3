"""What a UID is and what the known ones mean. It knows names, never the habits of a peer."""

import re
from typing import Final

from pydicom.uid import UID_dictionary

IMPLICIT_LE: Final = "1.2.840.10008.1.2"
EXPLICIT_LE: Final = "1.2.840.10008.1.2.1"
DEFLATED_LE: Final = "1.2.840.10008.1.2.1.99"
EXPLICIT_BE: Final = "1.2.840.10008.1.2.2"
JPIP_DEFLATED: Final = ("1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")
JPIP_REFERENCED: Final = ("1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.204")
DEFLATED_IMAGE_FRAME: Final = "1.2.840.10008.1.2.8.1"
GE_PRIVATE_IMPLICIT: Final = "1.2.840.113619.5.2"  # implicit LE header, big endian pixels
PAPYRUS_IMPLICIT: Final = "1.2.840.10008.1.20"

_MAX_LENGTH = 64
_SHAPE = re.compile(r"[0-9]+(?:\.[0-9]+)*\Z", re.ASCII)
_CONFORMANT = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))*\Z", re.ASCII)
_IMPLICIT = frozenset({IMPLICIT_LE, GE_PRIVATE_IMPLICIT, PAPYRUS_IMPLICIT})
_DEFLATED = frozenset({DEFLATED_LE, *JPIP_DEFLATED})
_UNCOMPRESSED = frozenset({*_IMPLICIT, EXPLICIT_LE, EXPLICIT_BE, DEFLATED_LE})
_WITHOUT_ENCAPSULATION = _UNCOMPRESSED | _DEFLATED | frozenset(JPIP_REFERENCED)
_EXTRA_NAMES = {
    DEFLATED_IMAGE_FRAME: ("Deflated Image Frame Compression", "Transfer Syntax"),
    GE_PRIVATE_IMPLICIT: ("GE Private Implicit VR Big Endian Pixels", "Transfer Syntax"),
}
_OTHER_IMAGE_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation Storage
        "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation Storage
        "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map Storage
        "1.2.840.10008.5.1.4.1.1.481.2",  # RT Dose Storage
    }
)


def valid_uid(uid: str) -> bool:
    """Whether `uid` may be handled at all: digits and dots, 1 to 64, no empty component.

    Leading zeros pass here although PS3.5 9.1 forbids them: old devices write them.
    `conformant_uid` tells the two apart.
    """
    return len(uid) <= _MAX_LENGTH and _SHAPE.match(uid) is not None


def conformant_uid(uid: str) -> bool:
    """Whether `uid` obeys PS3.5 9.1 to the letter, so without leading zeros."""
    return len(uid) <= _MAX_LENGTH and _CONFORMANT.match(uid) is not None


def name(uid: str) -> str:
    """The Standard's name of a UID (PS3.6 annex A), or the UID itself when it has none."""
    known = UID_dictionary.get(uid) or _EXTRA_NAMES.get(uid)
    return str(known[0]) if known else uid


def is_known_transfer_syntax(uid: str) -> bool:
    """Whether `uid` names a transfer syntax of the Standard or one of the private ones we know."""
    known = UID_dictionary.get(uid) or _EXTRA_NAMES.get(uid)
    return known is not None and known[1] == "Transfer Syntax"


def is_storage_class(uid: str) -> bool:
    """Whether `uid` names a storage SOP class of the Standard (PS3.4 annex B)."""
    known = UID_dictionary.get(uid)
    return known is not None and known[1] == "SOP Class" and "Storage" in known[0]


def is_image_storage(uid: str) -> bool:
    """Whether instances of this storage SOP class carry pixels when they have rows and columns."""
    return uid in _OTHER_IMAGE_CLASSES or "Image Storage" in name(uid)


def is_implicit(transfer_syntax: str) -> bool:
    """Implicit VR (PS3.5 A.1)."""
    return transfer_syntax in _IMPLICIT


def is_big_endian(transfer_syntax: str) -> bool:
    """Big endian data elements (PS3.5 A.3); GE's private syntax has only its pixels so."""
    return transfer_syntax == EXPLICIT_BE


def is_deflated(transfer_syntax: str) -> bool:
    """The whole data set is deflated (PS3.5 A.5); Deflated Image Frame deflates frames only."""
    return transfer_syntax in _DEFLATED


def is_uncompressed(transfer_syntax: str) -> bool:
    """Pixels are native, whatever happens to the data set around them."""
    return transfer_syntax in _UNCOMPRESSED


def is_encapsulated(transfer_syntax: str) -> bool:
    """Pixels come in fragments (PS3.5 A.4); an unknown transfer syntax counts as such."""
    return transfer_syntax not in _WITHOUT_ENCAPSULATION
