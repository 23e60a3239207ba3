"""The pixel data of one object turned into another transfer syntax, in the sandbox (R35).

It decides nothing about syntaxes, and it keeps what the sandbox gave in a file without a name.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from tempfile import TemporaryFile
from typing import BinaryIO

from django.conf import settings as project

from router import dimse, sandbox
from router.destinations.base import Outgoing
from router.dicom import pixels
from router.dicom.errors import DicomError
from router.dicom.syntaxes import DECODABLE, REENCODABLE, TARGETS
from router.dicom.transcode import Pixels, reencode

EXPLICIT = TARGETS[0]


def needs_codec(stored: str, wanted: str) -> bool:
    """Tell whether pixels must be decoded or encoded between the two syntaxes."""
    return stored != wanted and not (stored in REENCODABLE and wanted in TARGETS)


def layout_of(stored: str) -> str:
    """Return the uncompressed syntax that an object stored in `stored` is laid out in."""
    return EXPLICIT if stored in DECODABLE else stored


@contextmanager
def turned(
    item: Outgoing, wanted: str, file: BinaryIO, *, stop: Callable[[], bool]
) -> Iterator[Pixels | None]:
    """Give the pixels of `item` in `wanted`, None when it has none.

    Args:
        item: the object.
        wanted: a syntax that is decoded or encoded to.
        file: the object's file, positioned at its data set; read to the end.
        stop: asked while the codec works; true ends it.

    Raises:
        dimse.Damaged: it cannot be turned, and why. sandbox.Abandoned: asked to stop.
        dimse.Unreadable: it cannot be read, or no codec could be started, for now.
    """
    with TemporaryFile(dir=project.DATA_DIR) as answer:
        try:
            made = _turned(item, wanted, file, answer, stop=stop)
        except sandbox.Abandoned:
            raise
        except sandbox.Unavailable as error:
            raise dimse.Unreadable(str(error)) from error
        except (sandbox.SandboxError, DicomError) as error:
            raise dimse.Damaged(f"its pixels cannot be turned: {error}") from error
        except OSError as error:
            raise dimse.Unreadable(error.strerror or "input error") from error
        yield made


def _turned(
    item: Outgoing, wanted: str, file: BinaryIO, answer: BinaryIO, *, stop: Callable[[], bool]
) -> Pixels | None:
    header = item.header()
    if not pixels.has_pixels(header):
        return None
    shape = pixels.shape_of(header)
    job = {"stored": item.transfer_syntax, "wanted": wanted}
    source = _Explicit(file, item.transfer_syntax)
    sandbox.run(job, source, answer, most=shape.most_answer_bytes, stop=stop)
    answer.flush()
    read = partial(_read, answer.fileno())
    frames = pixels.cut(read, shape, wanted=wanted)
    return pixels.pixels(read, frames, shape, wanted=wanted)


def _read(descriptor: int, at: int, size: int) -> bytes:
    return os.pread(descriptor, size, at)


class _Explicit:
    """A stored data set as explicit VR little endian, which is what the codecs read."""

    def __init__(self, file: BinaryIO, stored: str) -> None:
        self._file, self._held = file, b""
        self._parts = (
            reencode(file, stored=stored, wanted=EXPLICIT)
            if stored in REENCODABLE and stored != EXPLICIT
            else None
        )

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        if self._parts is None:
            return self._file.read(size)
        if not self._held:
            self._held = next(self._parts, b"")
        got, self._held = self._held[:size], self._held[size:]
        return got
