"""DIMSE status codes by name, with the Standard's meaning (PS3.7 Annex C, PS3.4 Annex B.2.3).

It holds no policy: which status answers what is the handlers' business.
"""

from enum import IntEnum


class Status(IntEnum):
    """Statuses that we answer; the value is (0000,0900)."""

    SUCCESS = 0x0000
    # PS3.7 Annex C, any service
    INVALID_ATTRIBUTE_VALUE = 0x0106
    PROCESSING_FAILURE = 0x0110
    DUPLICATE_SOP_INSTANCE = 0x0111
    NO_SUCH_SOP_INSTANCE = 0x0112
    INVALID_SOP_INSTANCE = 0x0117
    NO_SUCH_SOP_CLASS = 0x0118
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    NOT_AUTHORIZED = 0x0124
    DUPLICATE_INVOCATION = 0x0210
    UNRECOGNIZED_OPERATION = 0x0211
    MISTYPED_ARGUMENT = 0x0212
    # PS3.4 Table B.2-1, Storage: A7xx, A9xx and Cxxx are ranges whose last digits are ours
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_MISMATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000
    DUPLICATE = 0xC001  # other bytes under a known UID, from a source whose duplicates we refuse
    # any service
    CANCEL = 0xFE00
    PENDING = 0xFF00

    def __str__(self) -> str:
        return f"{self.value:04X}"
