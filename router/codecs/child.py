"""The child of the sandbox: gives up what it does not need, does one job, and ends.

Reads an explicit VR little endian data set from its standard input, and writes its frames, turned,
to its standard output (`router.dicom.pixels` says how). Decides nothing: whether the answer is
sound is checked by the parent.
"""

import ctypes
import json
import logging
import os
import resource
import sys
import warnings
from collections.abc import Mapping
from typing import Any, NoReturn

from router.dicom.pixels import FRAME
from router.lifeline import end_with
from router.sandbox import JUDGED, OUT_OF_MEMORY

MOST_FILES = 64
NEW_NETWORK, NEW_USER = 0x40000000, 0x10000000
"""clone(2): a network of its own, without an interface; a user of its own, who may make one."""


def main(told: str) -> NoReturn:
    """Do the job that `told` describes as JSON, and end the process."""
    job = json.loads(told)
    confine(job)
    warnings.simplefilter("ignore")
    logging.disable()
    sys.exit(_attempt(job))


def confine(job: Mapping[str, Any]) -> None:  # Any: numbers, from our own parent's JSON
    """Take from this process what a decoder does not need; there is no way back."""
    end_with(job["parent"])
    _limit(resource.RLIMIT_AS, job["memory"])
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, MOST_FILES)
    resource.setrlimit(resource.RLIMIT_CPU, (job["cpu"], job["cpu"] + 1))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NETWORK) != 0:
        libc.unshare(NEW_USER | NEW_NETWORK)  # not everywhere permitted


def _limit(which: int, value: int) -> None:
    resource.setrlimit(which, (value, value))


def _attempt(job: Mapping[str, Any]) -> int:  # Any: as above
    try:
        _work(job)
    except MemoryError:
        return OUT_OF_MEMORY
    except Exception as error:  # noqa: BLE001 - said to the parent, which gives up the item
        words = f"{type(error).__name__}: {error}"
        os.write(sys.stderr.fileno(), b"\x1e" + words.encode("ascii", "replace")[:1000])
        return JUDGED
    return 0


def _work(job: Mapping[str, Any]) -> None:  # Any: as above
    # Only now: what the codecs allocate counts, and what they open is nobody's but theirs.
    from router.codecs.images import turned

    out = sys.stdout.buffer
    photometric = ""
    frames = turned(sys.stdin.buffer.read(), stored=job["stored"], wanted=job["wanted"])
    for frame, photometric in frames:  # noqa: B007 - the last one's is told
        out.write(FRAME.pack(len(frame)))
        out.write(frame)
    facts = json.dumps({"photometric": photometric}).encode()
    out.write(FRAME.pack(len(facts)) + facts)
    out.flush()
