"""A wall clock that jumps: a shim for the product's processes, built from `wallclock.c`."""

import os
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).with_name("wallclock.c")


class WallClock:
    """Processes started with `environment` see the host's wall clock plus `shift` seconds."""

    def __init__(self, folder: Path) -> None:
        self.shift = 0
        self._library = folder / "wallclock.so"
        self._file = folder / "wallclock"
        self._file.write_bytes(struct.pack("q", 0))
        command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(self._library), str(SOURCE), "-ldl"]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        assert built.returncode == 0, f"the clock cannot be built: {built.stderr}"

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process must be started with."""
        return {"LD_PRELOAD": str(self._library), "WALLCLOCK_FILE": str(self._file)}

    def jump(self, seconds: int) -> None:
        """Move the clock of every such process, at once."""
        self.shift += seconds
        descriptor = os.open(self._file, os.O_WRONLY)
        try:
            os.pwrite(descriptor, struct.pack("q", self.shift), 0)
        finally:
            os.close(descriptor)
