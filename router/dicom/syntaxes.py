"""Transfer syntaxes by what we can do with them (PS3.5 Annex A); no bytes are touched here."""

from typing import Final

from pydicom import uid as registered
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from router.dicom.errors import DicomError

TARGETS: Final = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
"""What we re-encode to, best first."""

REENCODABLE: Final = frozenset(
    {*TARGETS, str(ExplicitVRBigEndian), str(DeflatedExplicitVRLittleEndian)}
)
"""What we re-encode from without touching a pixel."""

DECODABLE: Final = frozenset(
    str(uid)
    for uid in (
        *(JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1),
        *(JPEGLSLossless, JPEGLSNearLossless, JPEG2000Lossless, JPEG2000),
        *(HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K, RLELossless),
    )
)
"""What the sandbox decodes."""

ENCODABLE: Final = frozenset(str(uid) for uid in (RLELossless, JPEGLSLossless, JPEG2000Lossless))
"""What the sandbox encodes to; lossless only, so that nothing is lost on the way."""


class UnknownSyntax(DicomError):
    """A text that names no transfer syntax."""


def named(text: str) -> str:
    """Return the UID of the transfer syntax that `text` names, by UID or keyword.

    Raises:
        UnknownSyntax: it names none that is registered.
    """
    is_uid = text.strip().replace(".", "").isdecimal()
    found = UID(text.strip()) if is_uid else getattr(registered, text.strip(), None)
    if isinstance(found, UID) and found.type == "Transfer Syntax":
        return str(found)
    raise UnknownSyntax(
        f"{text.strip()!r} is no transfer syntax; a UID or a keyword such as "
        "ExplicitVRLittleEndian or JPEG2000Lossless is expected"
    )
